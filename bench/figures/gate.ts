import type { Figure } from '../figure.ts'

export const gate: Figure = { name: 'gate', title: 'gate', run: () => Promise.reject(new Error('to come')) }
