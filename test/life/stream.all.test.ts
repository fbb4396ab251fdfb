/** The event stream of network.test.ts, for minutes: longer than any idle limit on its way. */
process.env.AMBIT_TEST_EVENTS = '180'
await import('./network.test.ts')
