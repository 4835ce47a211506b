import { join } from "node:path";
import type { Database } from "db0";
import { z } from "zod";
import type { Attempt, Call } from "../../core/call.ts";
import { checkOptions } from "../../core/config.ts";
import { AimoError, whereOf } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Plugin } from "../../core/plugin.ts";
import { openStore, type OpenStore } from "../stores/_store.ts";
import { spentBy } from "./_ledger-book.ts";
import { createBooking, type Booking } from "./_ledger-booking.ts";
import { createBudgets, type Budgets } from "./_ledger-budget.ts";
import { memoryJournal, openJournal, type Journal } from "./_ledger-journal.ts";
import { createMount } from "./_ledger-route.ts";
import { pageOf, rangeOf, usageOf, type Ledger } from "./_ledger-query.ts";
import { rowOf, type Row, type Tried } from "./_ledger-row.ts";
import type { Metrics } from "./_published.ts";

export type { Ledger } from "./_ledger-query.ts";

export interface LedgerOptions {
  /** Days after which rows go. A budget that is for `ever` counts those that are there. Default 400. */
  keep?: number;
}

declare module "aimo" {
  interface NodeServices {
    ledger: Ledger;
  }
}

const schema = z.strictObject({ keep: z.number().int().min(1).max(36_500).default(400) });

/** What an attempt was booked with. */
interface Entry extends Tried {
  row?: Row;
  ended?: true;
}

const DAY = 86_400_000;
const REFUSED = "the ledger's database refuses a row, which is left out";

/** Usage and cost of each attempt that said or cost something, with the receipt that proves it, and the budgets of clients. */
export function ledger(options: LedgerOptions = {}): Plugin {
  let settings = checkOptions("observer-ledger", schema, options);
  let entries = new WeakMap<Attempt, Entry>();
  let node: AimoNode;
  let store: OpenStore;
  let journal: Journal;
  let booking: Booking;
  let budgets: Budgets;
  let mount: (() => void) | undefined;
  let published: Metrics | undefined;
  let lost = 0;
  const told = new Set<string>();
  let open = false;

  /** Redis has no tables: what is booked lies on the node then. */
  function database(): Database {
    return store.now.database ?? (store.own.database as Database);
  }

  /** What of an attempt is new since it was booked last. What a client may have seen the end of is on the disk when this returns. */
  function note(call: Call, attempt: Attempt): void {
    const entry = entries.get(attempt);
    if (entry === undefined || !open) return;
    const fresh = rowOf(call, attempt, entry, {
      node: node.id,
      now: node.runtime.now(),
      ended: entry.ended === true,
    });
    const before = entry.row;
    if (fresh === undefined || (before !== undefined && same(before, fresh))) return;
    const row: Row = { ...fresh, revision: (before?.revision ?? 0) + 1 };
    entry.row = row;
    const signed = row.receipt !== null && (before?.receipt ?? null) === null;
    try {
      if (before === undefined || signed) journal.append(`${JSON.stringify(row)}\n`);
      else journal.later(`${JSON.stringify({ ...row, receipt: null, signature: null })}\n`);
    } catch (error) {
      lose(error);
    }
    budgets.add(row.client, row.startedAt, row.costNano - (before?.costNano ?? 0));
    booking.schedule();
  }

  /** On the HTTP server and among the metrics that there are: a reload may have made them anew. */
  function show(): void {
    mount?.();
    const metrics = node.find("metrics");
    if (metrics === published) return;
    published = metrics;
    const help = "Of the ledger's journal: what waits to be booked.";
    metrics?.gauge("aimo_ledger_waiting_bytes", help, [], (gauge) => gauge.set({}, journal.size));
    metrics?.gauge("aimo_ledger_lost_rows", "Rows that could not be written.", [], (gauge) => gauge.set({}, lost));
  }

  /** Each reason is told once. */
  function lose(error: unknown, why = "the ledger cannot be written: rows are lost"): void {
    const detail = error instanceof Error ? error.message : whereOf(error);
    lost++;
    if (told.has(why)) return;
    told.add(why);
    node.log("error", why, { detail });
  }

  return {
    name: "observer-ledger",
    options: settings,
    provides: ["ledger"],
    hooks: {
      "node:ready": show,
      "config:change": show,
      "call:start"(call, request) {
        if (booking.down && store.now.whenDown === "closed")
          throw new AimoError("OVERLOADED", "This node cannot book what calls cost: its database is out of reach.", {
            retryAfter: 1_000,
          });
        return budgets.admit(call, request);
      },
      "call:attempt"({ attempts }, target, { type, contentType, body }) {
        const id = Buffer.from(node.runtime.randomBytes(12)).toString("hex");
        const prompt = contentType.includes("json") ? body.length : 0;
        // A plugin before this one may have taken its time: by now another attempt may run beside it.
        const attempt = attempts.find(
          (each) => each.target === target.id && each.endedAt === undefined && !entries.has(each),
        );
        if (attempt) entries.set(attempt, { id, target, prompt, type });
      },
      "call:receipt"(receipt, call) {
        const attempt = call.attempts.find((each) => each.receipt === receipt);
        if (attempt) note(call, attempt);
      },
      // Before the client is told of an error, and behind the end of a reply.
      "call:attempted"(call, _, attempt) {
        const entry = entries.get(attempt);
        if (entry) entry.ended = true;
        note(call, attempt);
      },
      "call:end": (call) => budgets.release(call),
    },
    async setup(face) {
      node = face;
      entries = new WeakMap();
      store = await openStore(node, "observer-ledger");
      const { dataDir } = node.config;
      let n = 0;
      const name = (): string =>
        `${String(Math.round(node.runtime.now())).padStart(15, "0")}-${String(n++).padStart(6, "0")}`;
      if (dataDir === undefined)
        node.log("warn", "the ledger is kept in memory, and gone when the node stops: it has no `dataDir`");
      try {
        journal = dataDir === undefined ? memoryJournal() : openJournal(join(dataDir, "ledger"), name);
      } catch (cause) {
        const message = `observer-ledger: cannot write to the data dir ${dataDir} (${(cause as Error).message}).`;
        throw new AimoError("CONFIG_INVALID", message, { plugin: "observer-ledger", cause });
      }
      booking = createBooking(
        node,
        journal,
        database,
        () => budgets.booking(),
        (error) => lose(error, REFUSED),
      );
      budgets = createBudgets(
        node,
        (client, since) => booking.ask((from) => spentBy(from, client, since)),
        () => ({
          shared: store.shared && store.now.database !== undefined,
          whenDown: store.now.whenDown,
          down: booking.down,
          source: database(),
        }),
      );
      open = true;
      if (journal.size > 0) booking.schedule();
      booking.keep(() => settings.keep * DAY);
      const service: Ledger = {
        usage: (query) => booking.look((from) => usageOf(from, query.by, rangeOf(query, node.runtime.now()), node)),
        rows: (query) => booking.look((from) => pageOf(from, query, node.runtime.now())),
      };
      node.provide("ledger", service);
      mount = createMount(node, service, budgets);
    },
    update({ options: next }) {
      settings = next as typeof settings;
      return true;
    },
    async close() {
      if (!open) return;
      open = false;
      mount = undefined;
      published = undefined;
      await booking.close();
      await store.close();
    },
  };
}

/** Does it say nothing new? When it was written first, a row may not have known its end. */
function same(before: Row, now: Omit<Row, "revision">): boolean {
  return (Object.keys(now) as (keyof typeof now)[]).every((field) => before[field] === now[field]);
}
