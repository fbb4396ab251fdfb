/**
 * SIGKILL of the parts of a session at steps of its life, one after the other on one stage. The whole matrix is
 * kill.all.test.ts.
 */
import { killCase } from '../support/kill-case.ts'

killCase([
  ['started', 'run'],
  ['registered', 'ambitd'],
  ['namespaces', 'launch'],
  ['cell', 'run'],
  ['enforced', 'host'],
])
killCase([
  ['command', 'init'],
  ['write', 'view'],
  ['request', 'run'],
  ['request', 'host'],
  ['request', 'ambitd'],
])
killCase([
  ['answer', 'launch'],
  ['end', 'ambitd'],
  ['end', 'run'],
])
