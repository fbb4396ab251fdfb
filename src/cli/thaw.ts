import { orderCommand } from './order.ts'

export const command = orderCommand('thaw', 'let a frozen session go on', 'Undoes ambit freeze ID.')
