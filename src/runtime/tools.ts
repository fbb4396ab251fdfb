import { existsSync } from 'node:fs'
import { AmbitError } from '../lib/errors.ts'

/** The caller's PATH is not asked: who sets it would choose the program that confines him (C-48). */
const TOOL_DIRS = ['/usr/bin', '/usr/sbin', '/bin', '/sbin', '/usr/local/bin', '/usr/local/sbin']

/** Absolute path of a host program, or null. */
export function lookForTool(name: string): string | null {
  return TOOL_DIRS.map((dir) => `${dir}/${name}`).find((path) => existsSync(path)) ?? null
}

/** @throws AmbitError ERR_RUNTIME_MISSING naming the package and the command that installs it. */
export function findTool(name: string, packageName: string): string {
  const path = lookForTool(name)
  if (path) return path
  throw new AmbitError(
    'ERR_RUNTIME_MISSING',
    `runtime os-sandbox`,
    `${name} is not installed`,
    installHint(packageName),
  )
}

/** How to install a package here, with the package manager that this machine has. */
export function installHint(packageName: string): string {
  const managers = [
    ['apt-get', `sudo apt-get install ${packageName}`],
    ['dnf', `sudo dnf install ${packageName}`],
    ['zypper', `sudo zypper install ${packageName}`],
    ['pacman', `sudo pacman -S ${packageName}`],
    ['apk', `sudo apk add ${packageName}`],
  ] as const
  const known = managers.find(([manager]) => lookForTool(manager))
  return known ? `run: ${known[1]}` : `install the package ${packageName}`
}
