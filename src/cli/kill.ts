import { orderCommand } from './order.ts'

export const command = orderCommand(
  'kill',
  'end a session at once',
  'Kills every process of the session. Its record and its changes under review stay. `ambit run` exits with 125.',
)
