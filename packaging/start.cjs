// Entry of the bundles: V8's compiled code is kept, so that a start need not compile again. Node's own compile cache
// holds only what is compiled at load; this one is taken at the end, with every function that a start needs.
// It is code that will run, so it lies where no session can write: in the build for its owner, else in Ambit's own
// state (never in a root).
const { hash } = require('node:crypto')
const { existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } = require('node:fs')
const { homedir } = require('node:os')
const { join } = require('node:path')
const vm = require('node:vm')
const { argv, env, getuid } = process
const state = env.AMBIT_HOME ? join(env.AMBIT_HOME, 'state') : join(env.XDG_STATE_HOME || join(env.HOME || homedir(), '.local/state'), 'ambit')
const own = statSync(__dirname).uid === getuid()
const dir = own ? join(__dirname, 'cache') : join(state, 'cache', 'compiled')
const filename = join(__dirname, 'NAME-main.cjs')
const source = readFileSync(filename, 'utf8')
// V8 checks its own version and flags, but of the source the length only.
const digest = hash('sha256', source).slice(0, 32)
const kept = join(dir, `NAME-${['run', 'session-host'].includes(argv[2]) ? 'run' : 'other'}-${digest}`)

const script = new vm.Script(`(function (exports, require, module, __filename, __dirname) {${source}\n})`, {
  filename,
  cachedData: read(kept),
  importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
})
if (script.cachedDataRejected !== false) process.once('exit', (code) => code === 0 && keep())
script.runInThisContext()(exports, require, module, filename, __dirname)

/** V8 takes damaged code for code, so the digest in front must fit. */
function read(path) {
  try {
    const file = readFileSync(path)
    const code = file.subarray(32)
    return hash('sha256', code, 'buffer').equals(file.subarray(0, 32)) ? code : undefined
  } catch {
    return undefined
  }
}

function keep() {
  // The state directory is made by what needs it: a word of help leaves nothing, wherever AMBIT_HOME points.
  if (!own && !existsSync(state)) return
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 })
    const code = script.createCachedData()
    writeFileSync(`${kept}.${process.pid}`, Buffer.concat([hash('sha256', code, 'buffer'), code]), { mode: 0o600 })
    renameSync(`${kept}.${process.pid}`, kept)
  } catch {
    // A full or read-only disk: the next start only takes longer.
  }
}
