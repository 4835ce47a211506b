import type { Database } from "db0";
import { AimoError, whereOf } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import { forget, insert, merged, prepared, probe } from "./_ledger-book.ts";
import type { Journal } from "./_ledger-journal.ts";
import type { Row } from "./_ledger-row.ts";

/** Brings what is in the journal into the database, in batches, one after the other. */
export interface Booking {
  /** Something waits: it is booked within a second, and tried again each second until it is. */
  schedule(): void;
  /** Asks the database, behind all that was in the journal before. Rejects with OVERLOADED while it is out of reach. */
  ask<T>(question: (database: Database) => Promise<T>): Promise<T>;
  /** The same for what may take long: only others of its kind wait for the answer. */
  look<T>(question: (database: Database) => Promise<T>): Promise<T>;
  /** The database was out of reach when it was needed last. */
  readonly down: boolean;
  /** Rows older than so many ms go, now and each hour. */
  keep(ms: () => number): void;
  close(): Promise<void>;
}

/** ms */
const PAUSE = 1_000;
const HOUR = 3_600_000;

export function createBooking(
  node: AimoNode,
  journal: Journal,
  database: () => Database,
  /** Told before the journal is booked; the result is called when it is. */
  begins: () => () => void,
  /** Of a row that the database would never take. */
  refused: (error: unknown) => void,
): Booking {
  const { runtime } = node;
  let chain: Promise<unknown> = Promise.resolve();
  let looks: Promise<unknown> = Promise.resolve();
  let down = false;
  let unreadable = 0;
  let closed = false;
  let stopPause: (() => void) | undefined;
  let stopHour: (() => void) | undefined;

  const turn = (): Promise<void> => new Promise((resolve) => runtime.turn(resolve));

  function serial<T>(run: () => Promise<T>): Promise<T> {
    const next = chain.then(run);
    chain = next.catch(() => undefined);
    return next.then(
      (result) => {
        if (down) node.log("info", "the ledger's database can be used again");
        down = false;
        return result;
      },
      (cause: unknown) => {
        if (!down && !closed)
          node.log("warn", "the ledger's database cannot be used: rows wait in the journal", failure(cause));
        down = true;
        schedule();
        throw AimoError.is(cause) && cause.code === "OVERLOADED" ? cause : unreachable(cause);
      },
    );
  }

  async function book(): Promise<Database> {
    const segments = journal.take();
    const booked = begins();
    const to = await prepared(database());
    if (down) await probe(to);
    for (const segment of segments) {
      await insert(to, merged(parse(await segment.read())), turn, refused);
      await segment.drop();
    }
    booked();
    return to;
  }

  /** The last line may be torn, where the process was killed or the disk was full. */
  function parse(text: string): Row[] {
    const rows: Row[] = [];
    for (const line of text.split("\n")) {
      if (line === "") continue;
      try {
        const row = JSON.parse(line) as Row;
        if (typeof row.id !== "string") throw new TypeError("no row");
        rows.push(row);
      } catch {
        if (unreadable++ === 0) node.log("warn", "a line of the ledger's journal cannot be read, and is left out");
      }
    }
    return rows;
  }

  function schedule(): void {
    if (closed) return;
    stopPause ??= runtime.setTimeout(PAUSE, () => {
      stopPause = undefined;
      serial(book).catch(() => undefined);
    });
  }

  return {
    schedule,
    ask: (question) => serial(async () => question(await book())),
    look(question) {
      const next = looks.then(async () => {
        const to = await serial(book);
        return question(to).catch((cause: unknown) => {
          throw unreachable(cause);
        });
      });
      looks = next.catch(() => undefined);
      return next;
    },
    get down() {
      return down;
    },
    keep(ms) {
      const clear = async (): Promise<void> => {
        // Between two parts others may ask.
        while (
          !closed &&
          (await serial(async () => forget(await prepared(database()), Math.floor(runtime.now() - ms())))) > 0
        )
          await turn();
      };
      const again = (): void => {
        clear().catch(() => undefined);
        stopHour = runtime.setTimeout(HOUR, again);
      };
      again();
    },
    async close() {
      closed = true;
      stopPause?.();
      stopHour?.();
      await serial(book).catch(() => undefined);
      journal.close();
    },
  };
}

function unreachable(cause: unknown): AimoError {
  const message = "The ledger's database is out of reach; try again shortly.";
  return new AimoError("OVERLOADED", message, { retryAfter: 1_000, detail: whereOf(cause), cause });
}

function failure(cause: unknown): { detail: string } {
  return { detail: AimoError.is(cause) ? cause.message : whereOf(cause) };
}
