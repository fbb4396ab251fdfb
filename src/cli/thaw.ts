import { orderCommand } from './order.ts'

export const command = orderCommand(
  'thaw',
  'let a frozen session go on',
  'Undoes ambit freeze ID: its processes go on where they stood, and what they send goes out again.',
)
