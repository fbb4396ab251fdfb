/** Run inside a mount namespace by territory.test.ts: compiles a plan and prints how that ended. */
import { AmbitError } from '../../src/lib/errors.ts'
import { resolvePaths } from '../../src/lib/paths.ts'
import { compilePlan } from '../../src/profile/compile.ts'

const [, , dir = '', project = ''] = process.argv
const spec = { files: [{ path: '${project}', access: 'read' as const }] }
try {
  compilePlan(
    {
      resolved: { apiVersion: 'ambit/v1', kind: 'Profile', metadata: { name: 'probe' }, spec },
      origin: 'file',
      file: '/x.yaml',
      place: () => 'x.yaml',
    },
    { project, workspace: `${project}-work`, home: `${dir}/home` },
    resolvePaths({ AMBIT_HOME: `${dir}/ambit` }),
  )
  console.log('compiled')
} catch (error) {
  if (!(error instanceof AmbitError)) throw error
  console.log(error.code, error.why.replace(/ \(.*/, ''))
}
