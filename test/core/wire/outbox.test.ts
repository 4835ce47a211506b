import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Link } from "../../../core/index.ts";
import { MAX_CHUNK } from "../../../core/frame.ts";
import { decodeMessage, encodeHead, encodeMessage, Flag, Type, type Message } from "../../../core/wire/codec.ts";
import { OutgoingBody } from "../../../core/wire/body.ts";
import { createOutbox, type Outbox } from "../../../core/wire/outbox.ts";
import { createVirtualRuntime, settle } from "../../kit/virtual-runtime.ts";

interface Bench {
  readonly outbox: Outbox;
  /** Each `send`, its messages decoded. */
  readonly sends: Message[][];
  /** Why the link was closed, if it was. */
  readonly closed: unknown[];
  /** From now on `send` gives a promise; the result lets the waiting ones go. */
  slow(): () => void;
  readonly waiting: number;
  body(call: number, limit?: number, flags?: number): OutgoingBody;
}

function bench(): Bench {
  const sends: Message[][] = [];
  const closed: unknown[] = [];
  let slow = false;
  const waiting: PromiseWithResolvers<void>[] = [];
  const link = {
    send(messages: readonly Uint8Array[]) {
      sends.push(messages.map((bytes) => decodeMessage(bytes) as Message));
      if (!slow) return undefined;
      const wait = Promise.withResolvers<void>();
      waiting.push(wait);
      return wait.promise;
    },
    close: (error: unknown) => void closed.push(error),
  } as unknown as Link;
  const outbox = createOutbox(link, createVirtualRuntime());
  return {
    outbox,
    sends,
    closed,
    slow() {
      slow = true;
      return () => {
        for (const { resolve } of waiting.splice(0)) resolve();
      };
    },
    get waiting() {
      return waiting.length;
    },
    body: (call, limit = 2 ** 40, flags = 0) => new OutgoingBody(outbox, call, flags, limit),
  };
}

const bytes = (size: number, fill = 1): Uint8Array => new Uint8Array(size).fill(fill);
const control = (call = 0): Uint8Array => encodeMessage(Type.PING, 0, call, 0, bytes(8));

/** `DATA 1@0+10`, `PING`, … */
function shape(messages: readonly Message[]): string[] {
  const names = Object.fromEntries(Object.entries(Type).map(([name, type]) => [type, name]));
  return messages.map(({ type, call, offset, body }) =>
    type === Type.DATA ? `DATA ${call}@${offset}+${body.length}` : (names[type] as string),
  );
}

test("a body that has moved to another link sends nothing more over the old one", async () => {
  const [old, next] = [bench(), bench()];
  const moved = new OutgoingBody(old.outbox, 1, 0, 2 ** 40, 65_536);
  moved.push(bytes(10));
  await settle();
  moved.push(bytes(20));
  moved.resume(next.outbox, 4);
  await settle();
  expect(old.sends.map(shape)).toEqual([["DATA 1@0+10"]]);
  expect(next.sends.map(shape)).toEqual([["DATA 1@4+6", "DATA 1@10+20"]]);
});

test("a body that comes back within a turn still sends its end, once", async () => {
  const [a, b] = [bench(), bench()];
  const moved = new OutgoingBody(a.outbox, 1, 0, 2 ** 40, 65_536);
  moved.push(bytes(10));
  moved.resume(b.outbox, 0);
  moved.resume(a.outbox, 0);
  await settle();
  moved.finish((total) => encodeMessage(Type.DONE, 0, 1, total));
  await settle();
  expect(a.sends.map(shape)).toEqual([["DATA 1@0+10"], ["DONE"]]);
  expect(b.sends).toEqual([]);
});

describe("a turn", () => {
  test("is one send, control first", async () => {
    const { outbox, sends, body } = bench();
    body(1).push(bytes(10));
    outbox.control(control());
    body(2).push(bytes(20));
    expect(sends).toEqual([]);
    await settle();
    expect(sends.map(shape)).toEqual([["PING", "DATA 1@0+10", "DATA 2@0+20"]]);
  });

  test("that has gathered 60 KiB is sent at once", () => {
    const { sends, body } = bench();
    body(1).push(bytes(61_440));
    expect(sends).toHaveLength(1);
  });

  test("of a link that is ready never sends nothing", async () => {
    const { outbox, sends, body } = bench();
    outbox.flush();
    body(1).push(bytes(0));
    await settle();
    expect(sends).toEqual([]);
  });

  test("flush sends what is there", () => {
    const { outbox, sends } = bench();
    outbox.control(control());
    outbox.flush();
    expect(sends.map(shape)).toEqual([["PING"]]);
  });
});

describe("a link that is behind", () => {
  test("has at most 64 KiB of bodies unsettled, and a CANCEL overtakes what waits", async () => {
    const { outbox, sends, body, slow } = bench();
    const go = slow();
    body(1).push(bytes(65_536));
    body(2).push(bytes(65_536));
    body(3).push(bytes(65_536));
    await settle();
    expect(sends).toHaveLength(1);
    expect(sends[0]?.reduce((sum, message) => sum + message.body.length, 0)).toBeLessThanOrEqual(65_536);
    outbox.control(encodeHead(Type.CANCEL, Flag.OPENER, 9, { reason: "x" }));
    await settle();
    expect(sends).toHaveLength(1);
    go();
    await settle();
    expect(sends).toHaveLength(2);
    expect(sends[1]?.[0]?.type).toBe(Type.CANCEL);
    for (let i = 0; i < 10; i++) {
      go();
      await settle();
    }
    for (const messages of sends)
      expect(messages.reduce((sum, message) => sum + message.body.length, 0)).toBeLessThanOrEqual(65_536 + 16);
    expect(
      sends
        .flat()
        .filter(({ type }) => type === Type.DATA)
        .reduce((sum, message) => sum + message.body.length, 0),
    ).toBe(3 * 65_536);
  });

  test("that is closed gets nothing more", async () => {
    const { outbox, sends, body, slow } = bench();
    const go = slow();
    body(1).push(bytes(100));
    await settle();
    body(1).push(bytes(100));
    outbox.control(control());
    outbox.close();
    go();
    outbox.control(control());
    outbox.flush();
    await settle();
    expect(sends).toHaveLength(1);
  });
});

describe("a peer that reads nothing", () => {
  const head = encodeHead(Type.ERROR, 0, 1, { code: "busy", message: "x".repeat(1_000), retryable: true });
  const fits = Math.floor((4 * 1_048_576) / head.length);

  test("may leave 4 MiB of control unread; with more it loses the link, a turn later", async () => {
    const { outbox, closed, slow } = bench();
    slow();
    outbox.control(control());
    await settle();
    for (let n = 0; n < fits; n++) outbox.control(head);
    await settle();
    expect(closed).toEqual([]);
    outbox.control(head);
    outbox.control(head);
    expect(closed).toEqual([]);
    await settle();
    expect(closed).toMatchObject([{ code: "NETWORK_ERROR" }]);
  });

  test("is told apart from one that is slow: what it took does not count", async () => {
    const { outbox, closed, slow } = bench();
    const go = slow();
    for (let round = 0; round < 3; round++) {
      for (let n = 0; n < fits; n++) outbox.control(head);
      await settle();
      go();
      await settle();
    }
    expect(closed).toEqual([]);
  });
});

describe("fairness", () => {
  test("while others wait a body gets 16 KiB, then the next one has its turn", async () => {
    const { sends, body, slow } = bench();
    const go = slow();
    body(9).push(bytes(1)); // makes the link busy, so that the rest gathers
    await settle();
    for (const call of [1, 2, 3]) body(call).push(bytes(40_000));
    go();
    for (let i = 0; i < 12; i++) {
      await settle();
      go();
    }
    const order = sends
      .flat()
      .filter(({ call }) => call < 9)
      .map(({ call }) => call);
    expect(order.slice(0, 6)).toEqual([1, 2, 3, 1, 2, 3]);
    for (const { body: piece } of sends.flat()) expect(piece.length).toBeLessThanOrEqual(16_384 + 16_384);
  });

  test("a call alone gets pieces of 64 KiB", () => {
    const { sends, body } = bench();
    body(1).push(bytes(65_536));
    expect(shape(sends[0] ?? [])).toEqual(["DATA 1@0+65536"]);
  });

  test("a small call is not behind a large one", async () => {
    const { sends, body, slow } = bench();
    const go = slow();
    body(1).push(bytes(1_000_000));
    body(2).push(bytes(10));
    await settle();
    for (let i = 0; i < 3; i++) {
      go();
      await settle();
    }
    const all = shape(sends.flat());
    expect(all.indexOf("DATA 2@0+10")).toBeGreaterThanOrEqual(0);
    expect(all.indexOf("DATA 2@0+10")).toBeLessThan(6);
  });
});

describe("credit", () => {
  test("only the newest limit of a call and direction goes out", async () => {
    const { outbox, sends } = bench();
    outbox.credit(1, Flag.OPENER, 10);
    outbox.credit(1, 0, 15);
    outbox.credit(2, Flag.OPENER, 5);
    outbox.credit(1, Flag.OPENER, 20);
    await settle();
    expect(sends).toHaveLength(1);
    expect(sends[0]?.map(({ call, flags, offset }) => [call, flags, offset]).toSorted()).toEqual([
      [1, 0, 15],
      [1, Flag.OPENER, 20],
      [2, Flag.OPENER, 5],
    ]);
  });

  test("bodies stop at the limit, the writer waits, and goes on with the next one", async () => {
    const { sends, body } = bench();
    const out = body(1, 100);
    let free = false;
    void out.push(bytes(250))?.then(() => (free = true));
    await settle();
    expect(shape(sends.flat())).toEqual(["DATA 1@0+100"]);
    expect(out.blocked).toBe(true);
    expect(out.raise(100)).toBe(false);
    expect(out.raise(50)).toBe(false);
    expect(out.raise(200)).toBe(true);
    await settle();
    expect(shape(sends.flat()).at(-1)).toBe("DATA 1@100+100");
    expect(free).toBe(false);
    out.raise(1_000);
    await settle();
    expect(shape(sends.flat()).at(-1)).toBe("DATA 1@200+50");
    expect(free).toBe(true);
  });

  test("a piece that is cut says MORE on all but its last part, and keeps PRE; LAST is on the last alone", async () => {
    const { sends, body } = bench();
    const out = body(1, 10, Flag.OPENER);
    void out.push(bytes(25), Flag.LAST | Flag.PRE);
    await settle();
    out.raise(20);
    await settle();
    out.raise(100);
    await settle();
    const base = Flag.OPENER | Flag.PRE;
    expect(sends.flat().map(({ flags }) => flags)).toEqual([base | Flag.MORE, base | Flag.MORE, base | Flag.LAST]);
  });

  test("the last message goes out behind the last byte, with the total", async () => {
    const { sends, body } = bench();
    const out = body(1, 10);
    void out.push(bytes(25));
    out.finish((total) => encodeMessage(Type.END, 0, 1, total));
    await settle();
    expect(shape(sends.flat())).toEqual(["DATA 1@0+10"]);
    out.raise(1_000);
    await settle();
    expect(shape(sends.flat())).toEqual(["DATA 1@0+10", "DATA 1@10+15", "END"]);
    expect(sends.flat().at(-1)?.offset).toBe(25);
  });

  test("the last message of an empty body needs no credit", async () => {
    const { sends, body } = bench();
    body(1, 0).finish((total) => encodeMessage(Type.END, 0, 1, total));
    await settle();
    expect(shape(sends.flat())).toEqual(["END"]);
  });
});

test("drop forgets what was not sent and lets the writer go", async () => {
  const { sends, body } = bench();
  const out = body(1, 10);
  let free = false;
  void out.push(bytes(25))?.then(() => (free = true));
  await settle();
  out.drop();
  await settle();
  expect(free).toBe(true);
  out.raise(1_000);
  out.finish((total) => encodeMessage(Type.END, 0, 1, total));
  await settle();
  expect(shape(sends.flat())).toEqual(["DATA 1@0+10", "END"]);
  expect(sends.flat().at(-1)?.offset).toBe(10);
});

test("a drop while the body waits for its turn sends no empty DATA", async () => {
  const { sends, body, slow } = bench();
  const go = slow();
  body(9).push(bytes(1));
  await settle();
  const out = body(1);
  void out.push(bytes(100));
  out.drop();
  go();
  await settle();
  expect(sends.flat().filter(({ call }) => call === 1)).toEqual([]);
});

test("whatever is written, with whatever credit, arrives in order, whole, in legal pieces", async () => {
  const write = fc.record({
    call: fc.integer({ min: 1, max: 4 }),
    size: fc.integer({ min: 0, max: 70_000 }),
    credit: fc.integer({ min: 0, max: 60_000 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(write, { maxLength: 25 }), async (writes) => {
      const { sends, body, slow } = bench();
      const go = slow();
      const bodies = new Map(
        [1, 2, 3, 4].map((call) => [call, { out: body(call, 1_000), wanted: [] as Uint8Array[], limit: 1_000 }]),
      );
      let mark = 0;
      for (const { call, size, credit } of writes) {
        const each = bodies.get(call) as NonNullable<ReturnType<typeof bodies.get>>;
        const piece = bytes(size, ++mark % 251);
        each.wanted.push(piece);
        void each.out.push(piece);
        each.limit += credit;
        each.out.raise(each.limit);
        if (mark % 3 === 0) {
          await settle();
          go();
        }
      }
      for (const [call, { out }] of bodies) {
        out.raise(10_000_000);
        out.finish((total) => encodeMessage(Type.END, 0, call, total));
      }
      for (let i = 0; i < 60; i++) {
        await settle();
        go();
      }
      for (const [call, { wanted }] of bodies) {
        const mine = sends.flat().filter((message) => message.call === call);
        const data = mine.filter(({ type }) => type === Type.DATA);
        let at = 0;
        for (const message of data) {
          expect(message.offset).toBe(at);
          expect(message.body.length).toBeGreaterThan(0);
          expect(message.body.length).toBeLessThanOrEqual(MAX_CHUNK);
          at += message.body.length;
        }
        expect(Buffer.concat(data.map((message) => message.body)).equals(Buffer.concat(wanted))).toBe(true);
        expect(mine.at(-1)).toMatchObject({ type: Type.END, offset: at });
      }
    }),
    { numRuns: 25 },
  );
});
