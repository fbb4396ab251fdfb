/**
 * PATH of what Ambit itself starts on the host. Never the caller's: in an npm script that begins with the project's
 * `node_modules/.bin`, where an earlier session may have left a `git` (C-48).
 */
export const HOST_PATH =
  '/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin:/opt/homebrew/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin'
