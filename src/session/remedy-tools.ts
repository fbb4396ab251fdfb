/**
 * What known tools ask for next. A refused request is the first of many that nobody has seen yet: git's first answer
 * leads to its second request, a registry's to the packages' names. So their rules are suggested whole.
 */

/** What a tool's first refused request stands for. */
export interface Wanted {
  readonly methods: readonly string[]
  /** Null: all paths, because only the server knows the names of what is asked for next. */
  readonly paths: readonly string[] | null
  /** Hosts to which the same applies. */
  readonly hosts: readonly string[]
  readonly why: string
}

/** A host of packages and where it sends its readers. */
const REGISTRIES: readonly (readonly string[])[] = [
  ['registry.npmjs.org'],
  ['registry.yarnpkg.com'],
  ['pypi.org', 'files.pythonhosted.org'],
  ['index.crates.io', 'static.crates.io'],
  ['proxy.golang.org', 'sum.golang.org'],
  ['repo.maven.apache.org'],
  ['repo1.maven.org'],
  ['plugins.gradle.org', 'plugins-artifacts.gradle.org'],
  ['rubygems.org', 'index.rubygems.org'],
]

/** @param first path of the first refused request, with its query; null when there was no request */
export function wantedBy(
  host: string,
  methods: ReadonlySet<string>,
  paths: ReadonlySet<string>,
  first: string | null,
): Wanted | null {
  if ([...paths].some((path) => REFS.test(path))) return wantedByGit(host, methods, paths, first)
  const hosts = REGISTRIES.find((names) => names.includes(host))
  if (!hosts || [...methods].some((method) => !/^(?:GET|HEAD)$/.test(method))) return null
  return {
    methods: ['GET', 'HEAD'],
    paths: null,
    hosts,
    why: 'only the registry knows what an install asks for next, so all its paths are read; names carry data out, too',
  }
}

/** Git's HTTP protocol (gitprotocol-http(5)): which service comes next stands in the query of the first request. */
const REFS = /\/info\/refs$/

function wantedByGit(
  host: string,
  methods: ReadonlySet<string>,
  paths: ReadonlySet<string>,
  first: string | null,
): Wanted {
  const push = first?.endsWith('?service=git-receive-pack') ?? false
  const service = push ? 'git-receive-pack' : 'git-upload-pack'
  return {
    methods: [...new Set(['GET', 'POST', ...methods])],
    paths: [...paths].flatMap((path) =>
      REFS.test(path) ? [path, path.replace(REFS, `/${service}`)] : [path],
    ),
    hosts: [host],
    why: push ? 'what git needs to push there' : 'what git needs to fetch from there',
  }
}
