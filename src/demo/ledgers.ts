/** A month of bookkeeping with known differences: the work that the agent has to do, and the truth it is held to. */

type Difference = 'missing-in-ledger' | 'missing-in-bank' | 'amount-differs' | 'booked-twice'

/** One difference. Amounts are cents; null where there is no such posting. */
export interface Finding {
  readonly kind: Difference
  readonly reference: string
  readonly bank: number | null
  readonly ledger: number | null
}

export interface Month {
  /** Name → CSV text. */
  readonly files: Readonly<Record<string, string>>
  readonly postings: number
  /** Sorted by reference. */
  readonly truth: readonly Finding[]
}

const NAMES = [
  'Kessel GmbH',
  'Nordlicht AG',
  'Blue Harbor Ltd',
  'Vela Studios',
  'Otava Oy',
  'Campo Verde SA',
  'Mira Foods',
  'Tarn & Sons',
]
const DIFFERENCES: readonly Difference[] = [
  'missing-in-ledger',
  'missing-in-bank',
  'amount-differs',
  'booked-twice',
]

/** Postings of `month` (`2026-10`) from a seed: another seed, other differences, so nothing can be looked up. */
export function generateMonth(month: string, seed: number, postings = 420): Month {
  const random = randomFrom(seed)
  const bank = ['date,reference,counterparty,amount']
  const ledger = ['date,reference,account,amount']
  const truth: Finding[] = []
  for (let index = 0; index < postings; index++) {
    const reference = `INV-${String(seed % 1000).padStart(3, '0')}-${String(index + 1).padStart(4, '0')}`
    const date = `${month}-${String(1 + Math.floor(random() * 28)).padStart(2, '0')}`
    const amount = Math.round((random() - 0.35) * 2_000_000)
    const finding =
      random() < 0.06
        ? differenceOf(DIFFERENCES[Math.floor(random() * 4)] ?? 'amount-differs', reference, amount, random)
        : null
    if (finding) truth.push(finding)
    const counterparty = NAMES[Math.floor(random() * NAMES.length)] ?? ''
    const account = 1000 + Math.floor(random() * 8) * 100
    if (finding?.kind !== 'missing-in-bank')
      bank.push(`${date},${reference},${counterparty},${money(amount)}`)
    if (finding?.kind === 'missing-in-ledger') continue
    const booked = finding?.kind === 'amount-differs' ? (finding.ledger ?? amount) : amount
    ledger.push(`${date},${reference},${account},${money(booked)}`)
    if (finding?.kind === 'booked-twice') ledger.push(`${date},${reference},${account},${money(booked)}`)
  }
  return {
    files: { 'bank-statement.csv': lines(bank), 'general-ledger.csv': lines(ledger) },
    postings,
    truth,
  }
}

function differenceOf(kind: Difference, reference: string, amount: number, random: () => number): Finding {
  switch (kind) {
    case 'missing-in-ledger':
      return { kind, reference, bank: amount, ledger: null }
    case 'missing-in-bank':
      return { kind, reference, bank: null, ledger: amount }
    case 'amount-differs':
      return { kind, reference, bank: amount, ledger: amount + 100 + Math.floor(random() * 90_000) }
    case 'booked-twice':
      return { kind, reference, bank: amount, ledger: amount * 2 }
  }
}

/** What the agent's report must say, line by line. */
export function expectedReport(truth: readonly Finding[]): string {
  const cell = (cents: number | null): string => (cents === null ? '' : money(cents))
  const rows = truth.map(
    (finding) => `${finding.kind},${finding.reference},${cell(finding.bank)},${cell(finding.ledger)}`,
  )
  return lines(['kind,reference,bank,ledger', ...rows])
}

const money = (cents: number): string =>
  `${cents < 0 ? '-' : ''}${Math.floor(Math.abs(cents) / 100)}.${String(Math.abs(cents) % 100).padStart(2, '0')}`
const lines = (rows: readonly string[]): string => `${rows.join('\n')}\n`

/** mulberry32: small, even enough for bookkeeping. */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}
