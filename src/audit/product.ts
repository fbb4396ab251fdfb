/** Who writes the events. A test holds the version to package.json. */
export const PRODUCT = { name: 'Ambit', vendor_name: 'Ambit', version: '0.1.0' } as const
