import type { Allowance, Call, Origin } from "../../core/call.ts";
import { AimoError } from "../../core/error.ts";
import type { RequestFrame } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Awaitable } from "../../core/parts.ts";
import type { spentBy } from "./_ledger-book.ts";
import { clientOf, NANO, priceOf, tokensIn } from "./_ledger-row.ts";

type Budget = NonNullable<Allowance["budget"]>;

/** How a client's budget stands. US$. */
export interface Standing {
  readonly usd: number;
  readonly per: Budget["per"];
  readonly spent: number;
  /** What its running calls may cost. */
  readonly reserved: number;
  readonly left: number;
  /** Unix ms when it begins anew; null for one that never does. */
  readonly resets: number | null;
}

/** What clients with a budget have spent, and what their running calls may. */
export interface Budgets {
  /** Throws BUDGET_EXCEEDED. */
  admit(call: Call, request: Readonly<RequestFrame>): Awaitable<void>;
  release(call: Call): void;
  /** A row, or what a later revision of it adds. Nano-dollars. */
  add(client: string, startedAt: number, nano: number): void;
  /** What was added so far is about to be booked; the result says that it is. */
  booking(): () => void;
  standing(origin: Origin): Promise<Standing | undefined>;
}

/** Nano-dollars. */
interface Account {
  readonly per: Budget["per"];
  /** Of its period. Unix ms. */
  readonly start: number;
  /** As the database says. */
  booked: number;
  /** On its way there. */
  booking: number;
  /** In the journal alone. */
  added: number;
  reserved: number;
  /** Tokens of its answers, on average. */
  completion: number;
  /** Of its attempts, on average. */
  cost: number;
  /** When it was read last, and from when on it is to be read again. Unix ms. */
  stale: number;
  /** Where it was read: a reload may have put another one in its place. */
  source?: object | undefined;
  reading?: Promise<void> | undefined;
  /** Calls have waited for this reading as long as one may. */
  late: boolean;
}

/** Of a client that has not asked before. tokens */
const COMPLETION = 500;
const BLANK = { booked: 0, booking: 0, added: 0, reserved: 0, completion: COMPLETION, cost: 0, stale: 0, late: false };
/** ms */
const WITHIN = 2_000;
/** Other nodes that share the database spend, too: it is read again after so long, or after `SHARE` times what that takes. ms */
const FRESH = 1_000;
/** The same where none does, for what calls are on average. ms */
const ALONE = 60_000;
const SHARE = 20;
/** Clients that are remembered; the database has the rest. */
const MOST = 10_000;

export function createBudgets(
  node: AimoNode,
  read: (client: string, since: number) => ReturnType<typeof spentBy>,
  store: () => {
    readonly shared: boolean;
    readonly whenDown: "open" | "closed";
    readonly down: boolean;
    readonly source: object;
  },
): Budgets {
  const { runtime } = node;
  const accounts = new Map<string, Account>();
  const reservations = new WeakMap<Call, { account: Account; nano: number }>();

  function accountOf(client: string, { per }: Budget): Account {
    const start = startOf(per, runtime.now());
    let account = accounts.get(client);
    if (account === undefined || account.per !== per || account.start !== start) {
      account = { per, start, ...BLANK };
    }
    accounts.delete(client);
    accounts.set(client, account);
    if (accounts.size > MOST) drop();
    return account;
  }

  /** The one that has not been used for the longest time; what it has spent can be read again. */
  function drop(): void {
    for (const [client, { reserved, reading }] of accounts)
      if (reserved === 0 && reading === undefined) return void accounts.delete(client);
  }

  /** A promise only when it has to be read. */
  function refreshed(client: string, account: Account): Promise<void> | undefined {
    if (account.reading) return account.reading;
    const begun = runtime.now();
    const { source } = store();
    if (begun < account.stale && source === account.source) return undefined;
    account.source = source;
    const again = (): void => {
      const took = runtime.now() - begun;
      account.stale = runtime.now() + Math.max(store().shared ? FRESH : ALONE, took * SHARE);
    };
    account.reading = read(client, account.start)
      .then(({ nano, completion, cost }) => {
        account.booked = nano;
        account.cost = Math.round(cost);
        if (completion > 0) account.completion = completion;
        again();
      })
      .catch((error: unknown) => {
        // Where calls go on without it, not each of them asks in vain.
        account.stale = store().whenDown === "open" ? runtime.now() + FRESH : 0;
        throw error;
      })
      .finally(() => {
        account.reading = undefined;
        account.late = false;
      });
    return account.reading;
  }

  /** What waits to be booked may be much, and comes first. */
  async function soon(account: Account, reading: Promise<void>): Promise<void> {
    const { promise: late, reject } = Promise.withResolvers<never>();
    const stop = runtime.setTimeout(WITHIN, () => {
      account.late = account.reading === reading;
      reject(new AimoError("OVERLOADED", "What this client has spent is not known yet.", { retryAfter: WITHIN }));
    });
    return Promise.race([reading, late]).finally(stop);
  }

  function reserve(call: Call, request: Readonly<RequestFrame>, budget: Budget, account: Account): void {
    const limit = budget.usd * NANO;
    const spent = account.booked + account.booking + account.added;
    const nano = estimate(request, account);
    if (spent >= limit) throw exceeded(budget, account.start, runtime.now());
    // One call at a time is always let in: how much it costs shows at its end.
    if (account.reserved > 0 && spent + account.reserved + nano > limit) throw taken(budget);
    account.reserved += nano;
    reservations.set(call, { account, nano });
  }

  /** At the dearest price of the models that may answer; where they have none, what the client's attempts cost. */
  function estimate({ model, fallbacks = [], body }: Readonly<RequestFrame>, { completion, cost }: Account): number {
    let most: number | undefined;
    const tokens = { promptTokens: tokensIn(body.length), completionTokens: completion };
    for (const target of node.targets) {
      if (model !== undefined && target.model.id !== model && !fallbacks.includes(target.model.id)) continue;
      const price = priceOf(target.model, tokens);
      if (price !== undefined) most = Math.max(most ?? 0, price);
    }
    return most ?? cost;
  }

  return {
    admit(call, request) {
      const budget = call.origin.allowance?.budget;
      if (budget === undefined) return undefined;
      const client = clientOf(call.origin);
      const account = accountOf(client, budget);
      const reading = refreshed(client, account);
      if (reading === undefined) return reserve(call, request, budget, account);
      const { whenDown, down } = store();
      if (whenDown === "open" && (down || account.late)) {
        reading.catch(() => undefined); // nobody waits for what is out of reach
        return reserve(call, request, budget, account);
      }
      return soon(account, reading)
        .catch((error: unknown) => {
          if (whenDown === "closed") throw error;
        })
        .then(() => {
          // It has ended: nobody would give back what it reserves.
          if (!call.signal.aborted) reserve(call, request, budget, account);
        });
    },
    release(call) {
      const reservation = reservations.get(call);
      if (reservation === undefined) return;
      reservations.delete(call);
      reservation.account.reserved -= reservation.nano;
    },
    add(client, startedAt, nano) {
      const account = accounts.get(client);
      if (account !== undefined && startedAt >= account.start) account.added += nano;
    },
    booking() {
      const moved = [...accounts.values()].filter(({ added, booking }) => added !== 0 || booking !== 0);
      for (const account of moved) {
        account.booking += account.added;
        account.added = 0;
      }
      return () => {
        for (const account of moved) {
          account.booked += account.booking;
          account.booking = 0;
        }
      };
    },
    async standing(origin) {
      const budget = origin.allowance?.budget;
      if (budget === undefined) return undefined;
      const client = clientOf(origin);
      const account = accountOf(client, budget);
      await refreshed(client, account);
      const { start, booked, booking, added, reserved } = account;
      const spent = (booked + booking + added) / NANO;
      const left = Math.max(0, budget.usd - spent - reserved / NANO);
      return { ...budget, spent, reserved: reserved / NANO, left, resets: nextOf(budget.per, start) ?? null };
    },
  };
}

function exceeded(budget: Budget, start: number, now: number): AimoError {
  const next = nextOf(budget.per, start);
  const again = next === undefined ? "" : `; it begins anew at ${new Date(next).toISOString()}`;
  return new AimoError("BUDGET_EXCEEDED", `What this client may spend, ${told(budget)}, is spent${again}.`, {
    ...(next !== undefined && { retryAfter: next - now }),
  });
}

function taken(budget: Budget): AimoError {
  const message = `What is left of what this client may spend, ${told(budget)}, may be needed by its calls that run; ask again when they have ended.`;
  return new AimoError("BUDGET_EXCEEDED", message, { retryAfter: 1_000 });
}

function told({ usd, per }: Budget): string {
  return `US$ ${usd}${per === "ever" ? " in all" : ` a ${per}`}`;
}

/** UTC. */
function startOf(per: Budget["per"], now: number): number {
  const date = new Date(now);
  if (per === "ever") return 0;
  return Date.UTC(date.getUTCFullYear(), date.getUTCMonth(), per === "day" ? date.getUTCDate() : 1);
}

function nextOf(per: Budget["per"], start: number): number | undefined {
  if (per === "ever") return undefined;
  const date = new Date(start);
  const [day, month] = [date.getUTCDate(), date.getUTCMonth()];
  return Date.UTC(date.getUTCFullYear(), per === "day" ? month : month + 1, per === "day" ? day + 1 : 1);
}
