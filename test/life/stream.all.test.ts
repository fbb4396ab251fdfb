/** The event stream of network.test.ts, for minutes, two of them silent: longer than any idle limit on its way. */
process.env.AMBIT_TEST_EVENTS = '120'
process.env.AMBIT_TEST_SILENCE = '150'
await import('./network.test.ts')
