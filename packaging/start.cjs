// Entry of the bundles: V8's compiled code is kept, so that a start need not compile again. It is code that will run,
// so it lies where no session can write: in the build for its owner, else in Ambit's own state (never in a root).
const { statSync } = require('node:fs')
const { homedir } = require('node:os')
const { join } = require('node:path')
const { env, getuid } = process
const state = env.AMBIT_HOME ? join(env.AMBIT_HOME, 'state') : join(env.XDG_STATE_HOME || join(env.HOME || homedir(), '.local/state'), 'ambit')
const own = statSync(__dirname).uid === getuid()
require('node:module').enableCompileCache(own ? join(__dirname, 'cache') : join(state, 'cache', 'compiled'))
require('./NAME-main.cjs')
