import { describe, expect, test } from "vitest";
import { createNode, type AimoError, type AimoNode, type Link, type Plugin } from "../../core/index.ts";
import { memory } from "../../plugins/transports/index.ts";
import { chat, collect, faulty, testTransport, type FaultyOptions, type FaultyPlugin } from "../suites/index.ts";
import { pieces, provider } from "./local.ts";
import { createVirtualRuntime, settle, type VirtualRuntime } from "./virtual-runtime.ts";

let networks = 0;

/** One end of a link, with the test in the place of the core. */
interface End {
  readonly plugin: FaultyPlugin;
  readonly link: Link;
  /** Numbers that arrived, in order. */
  readonly got: number[];
  readonly raw: Uint8Array[];
  readonly closes: (AimoError | undefined)[];
  send(from: number, count?: number, size?: number): ReturnType<Link["send"]>;
}

/** Two ends of a link, each with faults of its own; the clock stands still. */
function ends(a: FaultyOptions, b: FaultyOptions = a): { a: End; b: End; runtime: VirtualRuntime } {
  const runtime = createVirtualRuntime();
  const network = `faulty-${networks++}`;
  return { a: end("a", network, a, runtime), b: end("b", network, b, runtime), runtime };
}

function end(id: string, network: string, options: FaultyOptions, runtime: VirtualRuntime): End {
  const plugin = faulty(memory({ network }), options);
  void plugin.setup?.({ id, runtime } as unknown as AimoNode);
  const made = { plugin, got: [], raw: [], closes: [], send } as unknown as { -readonly [K in keyof End]: End[K] };
  void plugin.transport?.listen(
    (link) => {
      made.link = link;
      return {
        message(bytes) {
          made.raw.push(Uint8Array.from(bytes));
          made.got.push(Buffer.from(bytes).readUInt32BE());
        },
        closed: (error) => void made.closes.push(error),
      };
    },
    () => undefined,
  );
  function send(from: number, count = 1, size = 4): ReturnType<Link["send"]> {
    return made.link.send(Array.from({ length: count }, (_, i) => numbered(from + i, size)));
  }
  return made;
}

function numbered(n: number, size = 4): Uint8Array {
  const bytes = Buffer.alloc(size);
  bytes.writeUInt32BE(n);
  return bytes;
}

const upTo = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** What arrives of so many messages, one a turn. */
async function carried(options: FaultyOptions, count = 2_000): Promise<{ got: number[]; raw: Uint8Array[]; end: End }> {
  const { a, b, runtime } = ends(options);
  for (let i = 0; i < count; i++) {
    a.send(i);
    if (i % 10 === 9) await settle();
  }
  await runtime.advance(1_000);
  return { got: b.got, raw: b.raw, end: a };
}

describe("a faulty link", () => {
  test("without faults is the link that it was", async () => {
    const { a, b } = ends({});
    expect(a.link.caps).toMatchObject({ ordered: true, reliable: true, private: true, backpressure: true });
    expect(a.link).toMatchObject({ peer: "b", via: "memory", rank: 0, dialled: false });
    a.send(0, 50);
    b.send(7);
    await settle();
    expect([b.got, a.got]).toEqual([upTo(50), [7]]);
  });

  test("loses its share, in both directions, and keeps the order of the rest", async () => {
    const { a, b, runtime } = ends({ loss: 0.2 });
    a.send(0, 2_000);
    b.send(0, 2_000);
    await runtime.advance(0);
    for (const { got } of [a, b]) {
      expect(got.length).toBeGreaterThan(1_500);
      expect(got.length).toBeLessThan(1_700);
      expect(got).toEqual(got.toSorted((x, y) => x - y));
    }
    expect(a.plugin.faults.caused.loss).toBe(2_000 - b.got.length);
    expect(a.got).not.toEqual(b.got);
  });

  test("doubles its share", async () => {
    const { got, end: sender } = await carried({ duplicate: 0.1 });
    expect(got).toHaveLength(2_000 + sender.plugin.faults.caused.duplicate);
    expect([...new Set(got)]).toEqual(upTo(2_000));
    expect(sender.plugin.faults.caused.duplicate).toBeGreaterThan(100);
  });

  test("lets later messages overtake its share, by a few places, and loses none", async () => {
    const { got, end: sender } = await carried({ reorder: 0.2 });
    expect(got.toSorted((x, y) => x - y)).toEqual(upTo(2_000));
    expect(sender.plugin.faults.caused.reorder).toBeGreaterThan(300);
    const late = got.filter((n, i) => got.slice(0, i).some((before) => before > n));
    expect(late.length).toBeGreaterThan(250);
    got.forEach((n, i) => expect(Math.abs(n - i)).toBeLessThan(20));
  });

  test("delivers a message that none overtakes 20 ms later", async () => {
    const { a, b, runtime } = ends({ reorder: 1 });
    a.send(0, 3);
    await runtime.advance(19);
    expect(b.got).toEqual([]);
    await runtime.advance(1);
    expect(b.got).toEqual([0, 1, 2]);
    expect(a.plugin.faults.caused.reorder).toBe(0);
  });

  test("flips one bit of its share, and leaves the sender's bytes alone", async () => {
    const { a, b, runtime } = ends({ corrupt: 0.5 });
    const sent = Array.from({ length: 100 }, (_, i) => numbered(i, 40));
    const before = sent.map((bytes) => Uint8Array.from(bytes));
    a.link.send(sent);
    await runtime.advance(0);
    expect(sent.map((bytes) => Uint8Array.from(bytes))).toEqual(before);
    const bits = b.raw.map((bytes, i) =>
      bytes.reduce((sum, byte, at) => sum + ones(byte ^ ((before[i] as Uint8Array)[at] as number)), 0),
    );
    expect(new Set(bits)).toEqual(new Set([0, 1]));
    expect(bits.filter((n) => n === 1)).toHaveLength(a.plugin.faults.caused.corrupt);
  });

  test("delivers after its delay, and after some jitter in order", async () => {
    const { a, b, runtime } = ends({ delay: 50, jitter: 30 });
    for (let i = 0; i < 100; i++) {
      a.send(i);
      await runtime.advance(1);
    }
    expect(b.got.length).toBeGreaterThan(20);
    expect(b.got.length).toBeLessThanOrEqual(50);
    await runtime.advance(80);
    expect(b.got).toEqual(upTo(100));
    const exact = ends({ delay: 50 });
    exact.a.send(0);
    await exact.runtime.advance(49);
    expect(exact.b.got).toEqual([]);
    await exact.runtime.advance(1);
    expect(exact.b.got).toEqual([0]);
    expect(exact.runtime.pending).toBe(0);
  });

  test("asks to wait while more than 1 MiB is on its way", async () => {
    const { a, b, runtime } = ends({ delay: 50 });
    expect(a.send(0, 16, 65_536)).toBeUndefined();
    let went = false;
    const wait = a.send(16, 1, 65_536);
    void wait?.then(() => (went = true));
    expect(wait).toBeInstanceOf(Promise);
    await runtime.advance(49);
    expect(went).toBe(false);
    await runtime.advance(1);
    expect(went).toBe(true);
    expect(b.got).toEqual(upTo(17));
  });

  test("breaks on both ends at its message of that number, and what is on its way is lost", async () => {
    const { a, b, runtime } = ends({ cut: 10, delay: 5 });
    b.send(0);
    a.send(0, 9);
    await runtime.advance(2);
    a.send(9);
    await runtime.advance(100);
    expect([a.got, b.got]).toEqual([[], []]);
    expect(a.closes).toMatchObject([{ code: "NETWORK_ERROR" }]);
    expect(b.closes).toHaveLength(1);
    expect(a.send(10)).toBeUndefined();
    expect(runtime.pending).toBe(0);
  });

  test("breaks at a share of its messages, each link anew", async () => {
    const { a, b, runtime } = ends({ cut: 0.05 }, {});
    const lives: number[] = [];
    for (let round = 0; round < 40; round++) {
      const before = b.got.length;
      while (a.closes.length === round) {
        a.send(0);
        await settle();
      }
      lives.push(b.got.length - before);
      await a.plugin.transport?.reach?.("b", new AbortController().signal);
    }
    const mean = lives.reduce((sum, n) => sum + n, 0) / lives.length;
    expect(mean).toBeGreaterThan(10);
    expect(mean).toBeLessThan(35);
    expect(new Set(lives).size).toBeGreaterThan(10);
    await runtime.advance(0);
    expect(b.closes).toHaveLength(40);
  });

  test("stalls at each message of that number, in both directions, and goes on without a loss", async () => {
    const { a, b, runtime } = ends({ stall: { every: 5, ms: 100 } }, {});
    a.send(0, 7);
    b.send(0, 3);
    await runtime.advance(99);
    expect([a.got, b.got]).toEqual([[], []]);
    await runtime.advance(1);
    expect([a.got, b.got]).toEqual([upTo(3), upTo(7)]);
    expect(a.plugin.faults.caused.stall).toBe(1);
  });

  test("suffers the same for the same seed, whatever the clock says, and something else for another", async () => {
    const all = { loss: 0.1, duplicate: 0.1, reorder: 0.1, corrupt: 0.1 };
    const [one, again, other] = [await carried(all), await carried(all), await carried({ ...all, seed: 2 })];
    expect(again.raw).toEqual(one.raw);
    expect(other.got).not.toEqual(one.got);
  });

  test.each([
    [{ loss: 0.1 }, { reliable: false, private: false, ordered: true }],
    [{ duplicate: 0.1 }, { reliable: false, private: false, ordered: true }],
    [{ reorder: 0.1 }, { ordered: false, private: false, reliable: true }],
    [{ corrupt: 0.1 }, { private: false, ordered: true, reliable: true }],
    [
      { delay: 5, jitter: 9, cut: 0.1, stall: { every: 9, ms: 9 } },
      { private: true, ordered: true, reliable: true },
    ],
    [{ caps: { ordered: false } }, { ordered: false, private: false, reliable: true }],
  ])("with %j says so in its caps", (options, caps) => {
    expect(ends(options).a.link.caps).toMatchObject(caps);
  });
});

describe("the end of a faulty link", () => {
  test("is told at once to who closes it, and to the other behind what was sent before", async () => {
    const { a, b, runtime } = ends({ delay: 50, jitter: 10 });
    a.send(0, 5);
    a.link.close();
    a.link.close();
    expect(a.closes).toEqual([undefined]);
    await runtime.advance(49);
    expect(b.closes).toEqual([]);
    await runtime.advance(11);
    expect([b.got, b.closes]).toEqual([upTo(5), [undefined]]);
    b.link.close();
    expect([a.closes.length, b.closes.length]).toEqual([1, 1]);
  });

  test("with an error comes at once, before what is on its way", async () => {
    const { a, b, runtime } = ends({ delay: 50 });
    a.send(0, 5);
    a.link.close(new Error("broken") as AimoError);
    await runtime.advance(0);
    expect([b.got, b.closes.length]).toEqual([[], 1]);
    expect(runtime.pending).toBe(0);
  });

  test("does not pass while it stalls", async () => {
    const { a, b, runtime } = ends({});
    a.plugin.faults.stall();
    a.link.close(new Error("silent") as AimoError);
    b.send(1);
    await runtime.advance(10_000);
    expect([a.closes.length, b.closes.length]).toEqual([1, 0]);
    a.plugin.faults.heal();
    await runtime.advance(0);
    expect([a.closes.length, b.closes.length, a.got]).toEqual([1, 1, []]);
  });

  test("of the transport waits for what is late, and leaves no timer", async () => {
    const { a, b, runtime } = ends({ delay: 50 });
    a.send(0, 3);
    a.link.close();
    const closed = a.plugin.transport?.close();
    await runtime.advance(50);
    await closed;
    await settle();
    expect([b.got, b.closes.length, runtime.pending]).toEqual([upTo(3), 1, 0]);
    await b.plugin.transport?.close();
  });
});

describe("the control of a faulty plugin", () => {
  test("brings faults at a chosen moment, and takes them away", async () => {
    const { a, b, runtime } = ends({ caps: { reliable: false } });
    a.send(0, 10);
    a.plugin.faults.set({ loss: 1 });
    a.send(10, 10);
    a.plugin.faults.set({ loss: 0, delay: 10 });
    a.send(20);
    a.plugin.faults.heal();
    await runtime.advance(10);
    expect(b.got).toEqual([...upTo(10), 20]);
    a.send(21);
    await settle();
    expect(b.got.at(-1)).toBe(21);
  });

  test("refuses what an open link has promised not to do, and changes nothing then", async () => {
    const { a, b, runtime } = ends({});
    for (const [faults, cap] of [
      [{ loss: 0.5, delay: 10 }, "reliable"],
      [{ reorder: 0.5 }, "ordered"],
      [{ corrupt: 0.5 }, "private"],
    ] as const)
      expect(() => a.plugin.faults.set(faults)).toThrow(`caps: { ${cap}: false }`);
    a.send(0);
    await runtime.advance(0);
    expect(b.got).toEqual([0]);
  });

  test("cuts and stalls all links", async () => {
    const { a, b, runtime } = ends({ delay: 5 }, {});
    await a.plugin.transport?.reach?.("b", new AbortController().signal);
    a.plugin.faults.stall(50);
    a.send(0);
    b.send(0);
    await runtime.advance(49);
    expect([a.got, b.got]).toEqual([[], []]);
    await runtime.advance(1);
    expect([a.got, b.got]).toEqual([[0], [0]]);
    a.send(1);
    a.plugin.faults.cut();
    await runtime.advance(50);
    expect([a.closes.length, b.closes.length, b.got]).toEqual([2, 2, [0]]);
    expect(a.plugin.faults.caused).toMatchObject({ cut: 2, stall: 2 });
  });

  test("a link made during a stall stalls too", async () => {
    const { a, b, runtime } = ends({}, {});
    a.plugin.faults.stall();
    await a.plugin.transport?.reach?.("b", new AbortController().signal);
    a.send(0);
    await runtime.advance(1_000);
    expect(b.got).toEqual([]);
    a.plugin.faults.heal();
    await runtime.advance(0);
    expect(b.got).toEqual([0]);
  });
});

describe("a faulty plugin", () => {
  test("passes on what else the plugin is, and is refused for one that makes no links", () => {
    const update = (): boolean => true;
    const plugin: Plugin = { ...memory(), name: "transport-memory:x", hooks: {}, update };
    const wrapped = faulty(plugin, { delay: 1 });
    expect(wrapped).toMatchObject({ name: "transport-memory:x", hooks: {}, update, options: { network: "default" } });
    expect(Object.keys(wrapped)).not.toContain("faults");
    expect(() => faulty({ name: "router-x" })).toThrow(/router-x.*makes no links/);
  });

  test.each([
    [{ los: 1 }, /there is no option "los". Did you mean "loss"/],
    [{ loss: 2 }, /loss/],
    [{ cut: 1.5 }, /cut: must be a share below 1, or a whole number/],
    [{ stall: { every: 0, ms: 1 } }, /stall.every/],
  ])("refuses %j", (options, why) => {
    expect(() => faulty(memory(), options as FaultyOptions)).toThrow(why);
    expect(() => faulty(memory()).faults.set(options as FaultyOptions)).toThrow(why);
  });

  test("spoils what its node broadcasts", () => {
    const told: Uint8Array[] = [];
    const inner: Plugin = {
      name: "transport-test",
      transport: { listen: () => undefined, close: () => undefined, broadcast: (message) => void told.push(message) },
    };
    const { transport } = faulty(inner, { loss: 0.5 });
    for (let i = 0; i < 1_000; i++) transport?.broadcast?.(numbered(i));
    expect(told.length).toBeGreaterThan(400);
    expect(told.length).toBeLessThan(600);
    expect(faulty(memory()).transport?.broadcast).toBeUndefined();
  });
});

describe("between real nodes", () => {
  testTransport(() => {
    const network = `faulty-${networks++}`;
    const late = (): Plugin => faulty(memory({ network }), { delay: 2, jitter: 5 });
    return { left: () => [late()], right: () => [late()] };
  });

  describe("that lose, mix up, repeat and spoil a part of all messages", () => {
    testTransport(() => {
      const network = `faulty-${networks++}`;
      let seed = 1;
      const bad = (): Plugin =>
        faulty(memory({ network }), { loss: 0.05, reorder: 0.3, duplicate: 0.3, corrupt: 0.02, seed: seed++ });
      return { left: () => [bad()], right: () => [bad()] };
    });
  });

  test("a stall is only late, and a cut costs no byte where there is a way back", async () => {
    const network = `faulty-${networks++}`;
    const faults = faulty(memory({ network }), { stall: { every: 40, ms: 20 } });
    await using gateway = await createNode({ plugins: [faults], drain: 0 });
    const listed = new Promise<void>((resolve) => gateway.hook("catalog:change", () => resolve()));
    const numbers = Array.from({ length: 300 }, (_, i) => `${i};`);
    await using server = await createNode({
      plugins: [memory({ network }), provider("p", pieces(...numbers))],
      drain: 0,
    });
    await listed;
    let cuts = 0;
    const { outcome, text } = await collect(gateway, chat("m", { stream: true }), {
      async write(frame) {
        await new Promise((resolve) => setImmediate(resolve));
        if (frame.messageType !== "StreamChunk" || frame.chunkIndex % 50 !== 25) return;
        cuts++;
        faults.faults.cut();
      },
    });
    expect([outcome.error, text]).toEqual([undefined, numbers.join("")]);
    expect([cuts, faults.faults.caused.cut]).toEqual([6, 6]);
    expect(server.id).not.toBe(gateway.id);
  });
});

function ones(byte: number): number {
  return byte.toString(2).replaceAll("0", "").length;
}
