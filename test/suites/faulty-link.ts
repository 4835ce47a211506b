import { AimoError, type Link, type LinkCaps, type LinkEvents, type Runtime, type Wait } from "../../core/index.ts";
import type { Fault, Faults } from "./faulty.ts";
import { copied, flipped } from "./random.ts";

/** What may lie in a late link before `send` asks to wait. bytes */
const ROOM = 1_048_576;
/** At most so many later messages overtake one that is out of order; ms until it goes anyway when none come. */
const OVERTAKEN_BY = 4;
const OUT_OF_ORDER = 20;

/** What the links of one faulty plugin share. */
export interface Suffering {
  readonly runtime: Runtime;
  /** May change at any time. */
  readonly faults: Readonly<Required<Faults>>;
  readonly caused: Record<Fault, number>;
}

/** One end of a link: what it sends suffers; when it stalls or is cut, both directions do. */
export interface FaultyLink {
  readonly link: Link;
  /** Given the core's events, those that the transport gets. */
  listen(events: LinkEvents): LinkEvents;
  cut(): void;
  stall(ms?: number): void;
  heal(): void;
  /** Drops what is on its way. */
  end(): void;
  /** It was closed, and what was sent before is still on its way. */
  readonly lingers: boolean;
  /** Resolves when nothing is on its way any more. */
  readonly gone: Promise<void>;
}

export function faultyLink(
  raw: Link,
  caps: LinkCaps,
  { runtime, faults, caused }: Suffering,
  random: () => number,
): FaultyLink {
  const { promise: gone, resolve: leave } = Promise.withResolvers<void>();
  let state: "open" | "closing" | "gone" = "open";
  let events: LinkEvents | undefined;
  let told: { error: AimoError | undefined } | undefined;
  let sent = 0;
  const overtaken: { readonly bytes: Uint8Array; readonly by: number; left: number }[] = [];
  let stopOvertaken: (() => void) | undefined;
  const late: { readonly bytes: Uint8Array; readonly due: number }[] = [];
  let size = 0;
  let lastDue = 0;
  let stopLate: (() => void) | undefined;
  let blocked = false;
  let room: PromiseWithResolvers<void> | undefined;
  let stalled = false;
  let stopStall: (() => void) | undefined;
  const incoming: (() => void)[] = []; // while it stalls

  function send(messages: readonly Uint8Array[]): Wait {
    if (state !== "open") return undefined;
    for (const message of messages) {
      sent++;
      if (faults.cut >= 1 ? sent >= faults.cut : faults.cut > 0 && random() < faults.cut) return void cut();
      const { stall: each } = faults;
      if (each && sent % each.every === 0) stall(each.ms);
      for (const bytes of spoil(message, faults, caused, random)) pass(bytes);
    }
    return flush();
  }

  /** Decides on the order, as far as it is not that of sending. */
  function pass(bytes: Uint8Array): void {
    if (faults.reorder > 0 && random() < faults.reorder) {
      const by = 1 + Math.floor(random() * OVERTAKEN_BY);
      overtaken.push({ bytes: copied(bytes), by, left: by });
      stopOvertaken ??= runtime.setTimeout(OUT_OF_ORDER, () => {
        release();
        flush();
      });
      return;
    }
    queue(bytes);
    for (const each of overtaken) each.left--;
    release(({ left }) => left <= 0);
  }

  function release(which: (each: (typeof overtaken)[number]) => boolean = () => true): void {
    for (const each of overtaken.filter(which)) {
      overtaken.splice(overtaken.indexOf(each), 1);
      if (each.left < each.by) caused.reorder++;
      queue(each.bytes);
    }
    if (overtaken.length > 0) return;
    stopOvertaken?.();
    stopOvertaken = undefined;
  }

  function queue(bytes: Uint8Array): void {
    const now = runtime.now();
    const after = faults.delay + (faults.jitter > 0 ? faults.jitter * random() : 0);
    lastDue = Math.max(lastDue, now + after);
    late.push({ bytes: lastDue > now || stalled || blocked ? copied(bytes) : bytes, due: lastDue });
    size += bytes.length;
  }

  /** Sends what is due; asks to wait while too much is not. */
  function flush(): Wait {
    stopLate?.();
    stopLate = undefined;
    while (state !== "gone" && !stalled && !blocked && late.length > 0) {
      const now = runtime.now();
      const first = late.findIndex(({ due }) => due - now > 0.5);
      const batch = late.splice(0, first < 0 ? late.length : first).map(({ bytes }) => bytes);
      if (batch.length === 0) {
        stopLate = runtime.setTimeout((late[0]?.due ?? now) - now, () => void flush());
        break;
      }
      for (const { length } of batch) size -= length;
      const wait = raw.send(batch);
      blocked = wait !== undefined;
      void wait?.then(() => {
        blocked = false;
        flush();
      });
    }
    if (state === "closing" && !stalled && (told?.error || (!blocked && late.length === 0))) shut(told?.error);
    if (state !== "gone" && (blocked || size > ROOM)) return (room ??= Promise.withResolvers<void>()).promise;
    room?.resolve();
    room = undefined;
    return undefined;
  }

  function drop(): void {
    for (const stop of [stopLate, stopOvertaken, stopStall]) stop?.();
    stopLate = stopOvertaken = stopStall = undefined;
    late.length = overtaken.length = incoming.length = size = 0;
    stalled = false;
  }

  function tell(error: AimoError | undefined): void {
    if (told) return;
    told = { error };
    events?.closed(error);
  }

  /** The end, for the transport too. */
  function shut(error?: AimoError): void {
    if (state === "gone") return;
    state = "gone";
    drop();
    room?.resolve();
    raw.close(error);
    tell(error);
    leave();
  }

  function cut(): void {
    if (state === "gone") return;
    caused.cut++;
    shut(new AimoError("NETWORK_ERROR", "the link was cut"));
  }

  function stall(ms?: number): void {
    if (state === "gone") return;
    stalled = true;
    caused.stall++;
    stopStall?.();
    stopStall = ms === undefined ? undefined : runtime.setTimeout(ms, goOn);
  }

  function goOn(): void {
    stopStall?.();
    stopStall = undefined;
    stalled = false;
    while (!stalled && incoming.length > 0) incoming.shift()?.();
    flush();
  }

  function come(what: () => void): void {
    if (stalled) incoming.push(what);
    else what();
  }

  return {
    link: {
      ...raw,
      caps,
      send,
      close(error) {
        if (state !== "open") return;
        state = "closing";
        if (error) late.length = overtaken.length = size = 0;
        release();
        tell(error);
        flush();
      },
    },
    listen(core) {
      events = core;
      if (told) core.closed(told.error);
      return {
        message(bytes) {
          if (state !== "open") return;
          const held = stalled ? copied(bytes) : bytes;
          come(() => void (state === "open" && core.message(held)));
        },
        closed: (error) => come(() => shut(error)),
      };
    },
    cut,
    stall,
    heal() {
      release();
      goOn();
    },
    end: () => shut(told?.error),
    get lingers() {
      return state === "closing" && !stalled;
    },
    gone,
  };
}

/** What becomes of one message: none, one or two. */
export function spoil(
  message: Uint8Array,
  faults: Suffering["faults"],
  caused: Suffering["caused"],
  random: () => number,
): readonly Uint8Array[] {
  const hit = (fault: "loss" | "corrupt" | "duplicate"): boolean => {
    const is = faults[fault] > 0 && random() < faults[fault];
    if (is) caused[fault]++;
    return is;
  };
  if (hit("loss")) return [];
  const bytes = hit("corrupt") ? flipped(message, random) : message;
  return hit("duplicate") ? [bytes, bytes] : [bytes];
}
