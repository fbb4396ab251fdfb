import { stringify } from 'yaml'

/** A document as people write it: no aliases (parseYaml refuses them), no folded lines. */
export const formatYaml = (value: unknown): string =>
  stringify(value, { aliasDuplicateObjects: false, lineWidth: 0 })
