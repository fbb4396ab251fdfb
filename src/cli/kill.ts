import { orderCommand } from './order.ts'

export const command = orderCommand(
  'kill',
  'end a session at once',
  `Kills every process of the session and returns when it is told. Its record, which says who asked, and its changes under
review stay; its ambit run exits with 125.`,
)
