import { orderCommand } from './order.ts'

export const command = orderCommand(
  'freeze',
  'stop a session, keeping its state',
  'Stops every process of the session and everything on its way out; nothing is lost. ambit thaw ID lets it go on.',
)
