import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isPublicAddress } from '../../src/gate/address.ts'

const FORBIDDEN = [
  '0.0.0.0',
  '0.1.2.3',
  '10.0.0.1',
  '21.0.0.1',
  '100.64.0.0',
  '100.127.255.255',
  '127.0.0.1',
  '127.255.255.254',
  '169.254.169.254',
  '172.16.0.1',
  '172.31.255.255',
  '192.0.0.192',
  '192.0.2.1',
  '192.168.1.1',
  '198.18.0.1',
  '198.51.100.1',
  '203.0.113.1',
  '224.0.0.1',
  '239.1.1.1',
  '240.0.0.1',
  '255.255.255.255',
  '168.63.129.16',
  '::',
  '::1',
  '::ffff:127.0.0.1',
  '::ffff:8.8.8.8',
  '64:ff9b::8.8.8.8',
  '64:ff9b:1::1',
  '100::1',
  '2001::1',
  '2001:db8::1',
  '2002:808:808::1',
  'fc00::1',
  'fd00:ec2::254',
  'fe80::1',
  'fe80::1%lo',
  'fec0::1',
  'ff02::1',
  '3fff::1',
  'example.com',
  '',
]
const PUBLIC = [
  '8.8.8.8',
  '1.1.1.1',
  '100.63.255.254',
  '100.128.0.1',
  '172.15.0.1',
  '172.32.0.1',
  '2606:4700::1111',
  '2a00:1450::1',
]

test('N-16, N-17: private, special and tunnelled addresses are not public', () => {
  for (const address of FORBIDDEN) assert.ok(!isPublicAddress(address), address)
  for (const address of PUBLIC) assert.ok(isPublicAddress(address), address)
})
