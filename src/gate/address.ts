/** Which addresses a name may lead to. Everything that is not plainly the public internet is refused (N-16 to N-19). */
import { BlockList, isIPv4, isIPv6 } from 'node:net'

/** IANA special-purpose registries (RFC 6890 and later), and what clouds put beside them. */
const FORBIDDEN_V4 = [
  '0.0.0.0/8', // "this network"; 0.0.0.0 is loopback on Linux
  '10.0.0.0/8',
  '21.0.0.0/8', // ours: the session's synthetic addresses
  '100.64.0.0/10', // carrier-grade NAT; some clouds' metadata
  '127.0.0.0/8',
  '169.254.0.0/16', // link-local: instance metadata
  '172.16.0.0/12',
  '192.0.0.0/24', // protocol assignments; Oracle's metadata
  '192.0.2.0/24',
  '192.31.196.0/24',
  '192.52.193.0/24',
  '192.88.99.0/24', // 6to4 relays
  '192.168.0.0/16',
  '192.175.48.0/24',
  '198.18.0.0/15', // benchmarking
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/4', // multicast
  '240.0.0.0/4', // reserved, broadcast
  '168.63.129.16/32', // Azure's wire server
]
/** Of IPv6 only global unicast (2000::/3) is public, and of that not: */
const FORBIDDEN_V6 = [
  '2001::/23', // protocol assignments: Teredo, ORCHID, benchmarking
  '2001:db8::/32',
  '2002::/16', // 6to4: an IPv4 address inside, even a public one
  '3fff::/20',
  '5f00::/16',
]

const forbidden = new BlockList()
for (const [list, family] of [
  [FORBIDDEN_V4, 'ipv4'],
  [FORBIDDEN_V6, 'ipv6'],
] as const)
  for (const subnet of list) {
    const [network = '', prefix] = subnet.split('/')
    forbidden.addSubnet(network, Number(prefix), family)
  }
const globalUnicast = new BlockList()
globalUnicast.addSubnet('2000::', 3, 'ipv6')

/** True for an address on the public internet. IPv4-mapped, NAT64, unique-local and the rest fall outside 2000::/3. */
export function isPublicAddress(address: string): boolean {
  if (isIPv4(address)) return !forbidden.check(address, 'ipv4')
  if (!isIPv6(address) || address.includes('%')) return false
  return globalUnicast.check(address, 'ipv6') && !forbidden.check(address, 'ipv6')
}
