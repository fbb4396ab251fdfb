import type { Figure } from '../figure.ts'

export const view: Figure = { name: 'view', title: 'view', run: () => Promise.reject(new Error('to come')) }
