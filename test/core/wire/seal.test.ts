import { describe, expect, test } from "vitest";
import { MAX_CHUNK, openIdentity, type Handler, type Link, type LinkCaps } from "../../../core/index.ts";
import { encodeHead, encodeMessage, Type } from "../../../core/wire/codec.ts";
import { Cover, greet, reply } from "../../../core/wire/handshake.ts";
import { provider } from "../../kit/local.ts";
import { connect, pass, quiet, wiredNode, type Passing, type Wire, type WiredNode } from "../../kit/pair.ts";
import { chat, collect, type Collected } from "../../suites/build.ts";

/** What gossip gives. */
const GOSSIP: LinkCaps = { ordered: false, reliable: false, private: false, backpressure: false, maxMessage: 196_608 };
const SECRET = "the secret of the prompt";
const CHUNKS = 12;
const whole = Array.from({ length: CHUNKS }, (_, i) => `${i}:${"x".repeat(9_000)};`).join("");

interface Scene {
  readonly a: WiredNode;
  readonly b: WiredNode;
  readonly wire: Wire;
  runs: number;
}

async function scene(caps: LinkCaps = GOSSIP, handle?: Handler): Promise<Scene> {
  const answer: Handler = async (request, out, call) => {
    stage.runs++;
    if (handle) return handle(request, out, call);
    for (let i = 0; i < CHUNKS; i++) await out.chunk(`${i}:${"x".repeat(9_000)};`);
    out.end();
  };
  const a = await wiredNode([], { timeouts: { resume: 1_500 } });
  const b = await wiredNode([provider("p", answer)], { timeouts: { resume: 1_500 } });
  const stage: Scene = { a, b, wire: connect(a, b, { caps }), runs: 0 };
  return stage;
}

/** A call, with both clocks running until it is over. */
async function ask({ a, b }: Scene): Promise<Collected> {
  let done = false;
  const asked = collect(a.node, chat("m", { stream: true, extra: { prompt: SECRET.repeat(4_000) } })).finally(
    () => (done = true),
  );
  for (let i = 0; i < 2_000 && !done; i++) await pass(20, a, b);
  return asked;
}

/** Both know each other. */
async function joined({ a, b }: Scene): Promise<void> {
  for (let i = 0; i < 200 && [...a.node.targets].length === 0; i++) await pass(20, a, b);
  expect([...a.node.targets]).toHaveLength(1);
}

function expectWhole({ outcome, text }: Collected, { runs }: Scene): void {
  expect({ status: outcome.status, runs, same: text === whole }).toEqual({ status: "ok", runs: 1, same: true });
}

describe("a link that is not private", () => {
  test("carries a call, and nothing of it can be read on the way", async () => {
    const stage = await scene();
    await joined(stage);
    expectWhole(await ask(stage), stage);
    const all = Buffer.concat(stage.wire.seen.map(({ bytes }) => bytes)).toString("latin1");
    expect(all).not.toContain(SECRET);
    expect(all).not.toContain("xxxxxxxxxxxxxxxx");
    expect(all).not.toContain("application/json");
  });

  test("proves both peers, whatever the raw link says", async () => {
    const stage = await scene();
    await joined(stage);
    expect([...stage.a.node.peers]).toEqual([{ id: stage.b.node.id, links: ["test"] }]);
    expect([...stage.b.node.peers]).toEqual([{ id: stage.a.node.id, links: ["test"] }]);
  });

  test("passes over what is forged, altered or played back", async () => {
    const stage = await scene();
    await joined(stage);
    const old = stage.wire.seen.slice();
    stage.wire.tap = ({ from, bytes }) => {
      const to = from === "a" ? "b" : "a";
      const altered = Uint8Array.from(bytes);
      altered[altered.length - 1] = (altered.at(-1) ?? 0) ^ 1;
      stage.wire.inject(to, altered);
      stage.wire.inject(
        to,
        Uint8Array.from({ length: 40 }, (_, i) => i),
      );
      for (const kind of Object.values(Cover)) stage.wire.inject(to, Uint8Array.of(kind, 0, 0, 0, 1, 9, 9));
      for (const each of old) if (each.from === from) stage.wire.inject(to, each.bytes);
      return "pass";
    };
    expectWhole(await ask(stage), stage);
    expect(stage.wire.open).toBe(true);
  });

  test("is closed when nobody answers within 3 s", async () => {
    const a = await wiredNode();
    const b = await wiredNode();
    const wire = connect(a, b, { caps: GOSSIP });
    wire.tap = () => "drop";
    await pass(2_980, a, b);
    expect(wire.open).toBe(true);
    expect(wire.seen.filter(({ bytes }) => bytes[0] === Cover.FIRST).length).toBe(10);
    await pass(40, a, b);
    expect(wire.open).toBe(false);
  });

  test("a handshake that is played back makes no peer", async () => {
    const stage = await scene();
    await joined(stage);
    const [first] = stage.wire.seen as [Passing];
    const events = stage.b.accept({
      via: "test",
      rank: 10,
      dialled: false,
      caps: GOSSIP,
      send: (): undefined => undefined,
      close: () => undefined,
    });
    events.message(first.bytes);
    await pass(3_100, stage.a, stage.b);
    expect([...stage.b.node.peers]).toHaveLength(1);
    expect([...stage.b.node.peers][0]?.links).toHaveLength(1);
  });
});

describe("a handshake", () => {
  const self = () => ({
    identity: openIdentity(),
    instance: new Uint8Array(16),
    runtime: { randomBytes: (n: number) => crypto.getRandomValues(new Uint8Array(n)) },
  });

  test("gives both sides the same keys, crosswise", () => {
    const [a, b] = [self(), self()];
    const dial = greet(a, b.identity.peerId, "inbox");
    const { message, secrets } = reply(b, dial.message, "inbox");
    const mine = dial.finish(message);
    expect(mine.send).toEqual(secrets.receive);
    expect(mine.receive).toEqual(secrets.send);
    expect(mine.id).toEqual(secrets.id);
    expect([mine.peer, secrets.peer]).toEqual([b.identity.peerId, a.identity.peerId]);
  });

  test.each<[string, () => unknown]>([
    ["for another node", () => reply(self(), greet(self(), self().identity.peerId, undefined).message, undefined)],
    [
      "whose answers were to go elsewhere",
      () => {
        const b = self();
        return reply(b, greet(self(), b.identity.peerId, "inbox").message, "another");
      },
    ],
    [
      "answered by another node",
      () => {
        const [a, b, c] = [self(), self(), self()];
        const dial = greet(a, b.identity.peerId, undefined);
        const other = greet(a, c.identity.peerId, undefined);
        return dial.finish(reply(c, other.message, undefined).message);
      },
    ],
    [
      "with the answer to another message",
      () => {
        const [a, b] = [self(), self()];
        const dial = greet(a, b.identity.peerId, undefined);
        return dial.finish(reply(b, greet(a, b.identity.peerId, undefined).message, undefined).message);
      },
    ],
    [
      "that was altered",
      () => {
        const b = self();
        const { message } = greet(self(), b.identity.peerId, undefined);
        message[message.length - 100] = (message[message.length - 100] ?? 0) ^ 1;
        return reply(b, message, undefined);
      },
    ],
    ["that is too long", () => reply(self(), new Uint8Array(5_000), undefined)],
  ])("%s is refused", (_, run) => {
    expect(run).toThrow(/handshake/);
  });
});

describe("a link that loses, repeats and mixes up messages", () => {
  test("loses exactly one of each, also the last of a turn and the acknowledgement: each one really leaves again (trace 9)", async () => {
    let n = 0;
    for (; ; n++) {
      const stage = await scene();
      let count = 0;
      let lost: Passing | undefined;
      stage.wire.tap = (passing) => {
        if (lost || count++ !== n) return "pass";
        lost = passing;
        return "drop";
      };
      await joined(stage);
      expectWhole(await ask(stage), stage);
      await pass(500, stage.a, stage.b);
      expect({ n, open: stage.wire.open }).toEqual({ n, open: true });
      if (lost === undefined) break;
      const { bytes, from } = lost;
      // What acknowledges and what can be asked for again needs no second copy; the newest is as good.
      const again = stage.wire.seen.filter((each) => each.from === from && Buffer.compare(each.bytes, bytes) === 0);
      if (bytes[0] !== Cover.ACK) expect({ n, again: again.length }).toEqual({ n, again: 2 });
    }
    expect(n).toBeGreaterThan(10);
  });

  test("a third of all messages late or twice, and a twentieth lost: byte for byte the same", async () => {
    const stage = await scene();
    let state = 7;
    const random = (): number => (state = (state * 16_807) % 2_147_483_647) / 2_147_483_647;
    stage.wire.tap = ({ from, bytes }) => {
      if (random() < 0.05) return "drop";
      if (random() < 0.3) {
        const { runtime } = stage.a;
        runtime.setTimeout(random() * 150, () => stage.wire.inject(from === "a" ? "b" : "a", bytes));
        if (random() < 0.5) return "drop";
      }
      return "pass";
    };
    await joined(stage);
    for (let i = 0; i < 20; i++) {
      stage.runs = 0;
      expectWhole(await ask(stage), stage);
    }
    expect(stage.wire.open).toBe(true);
  });

  test("what cannot be repaired closes the link within 1.5 s, though the peer is heard", async () => {
    const stage = await scene();
    await joined(stage);
    // All of one batch is lost, however often it is sent; later ones and acknowledgements pass.
    let doomed: Uint8Array | undefined;
    stage.wire.tap = ({ from, bytes }) => {
      if (from !== "b" || bytes[0] !== Cover.BATCH) return "pass";
      doomed ??= bytes;
      return Buffer.compare(doomed, bytes) === 0 ? "drop" : "pass";
    };
    const asked = collect(stage.a.node, chat("m", { stream: true }));
    for (let i = 0; i < 75 && stage.wire.open; i++) await pass(20, stage.a, stage.b);
    expect(stage.wire.open).toBe(false);
    await pass(1_600, stage.a, stage.b);
    expect((await asked).outcome.error?.code).toMatch(/NETWORK_ERROR|STREAM_INTERRUPTED/);
  });

  test("a sender waits while 256 KiB are not acknowledged", async () => {
    const stage = await scene(GOSSIP, async (_, out) => {
      for (let i = 0; i < 100; i++) await out.chunk(Buffer.alloc(MAX_CHUNK));
      out.end();
    });
    await joined(stage);
    let sent = 0;
    stage.wire.tap = ({ from, bytes }) => {
      if (from === "b" && bytes[0] === Cover.BATCH) sent += bytes.length;
      return from === "a" && bytes[0] === Cover.ACK ? "drop" : "pass";
    };
    const asked = collect(stage.a.node, chat("m", { stream: true }));
    await pass(200, stage.a, stage.b);
    expect(sent).toBeLessThanOrEqual(262_144 + 2 * 65_536 + 4_096);
    expect(sent).toBeGreaterThan(190_000);
    stage.wire.cut();
    await pass(2_000, stage.a, stage.b);
    await asked;
  });

  test("closing brings over what was said last, also when it has to be said again", async () => {
    const stage = await scene();
    await joined(stage);
    let lost = 0;
    stage.wire.tap = ({ from, bytes }) => {
      if (from === "b" && bytes[0] === Cover.BATCH && lost++ === 0) return "drop";
      return "pass";
    };
    const closed = stage.b.node.close();
    await pass(800, stage.a, stage.b);
    await closed;
    expect([...stage.a.node.peers]).toEqual([]);
    expect(lost).toBeGreaterThan(1);
  });
});

test("a link made on demand is closed by its dialler after 60 s without a call, and not before", async () => {
  const stage = { a: await wiredNode([provider("q", (_, out) => void out.send("x"))]), b: await wiredNode() };
  const link = (dialled: boolean): { link: Link; closed: () => number } => {
    let closed = 0;
    return {
      link: {
        via: "test",
        rank: 10,
        dialled,
        onDemand: true,
        caps: { ...GOSSIP, ordered: true, reliable: true, private: true },
        peer: stage.b.node.id,
        send: (): undefined => undefined,
        close: () => void closed++,
      },
      closed: () => closed,
    };
  };
  const [mine, theirs] = [link(true), link(false)];
  const ends = [mine, theirs].map((each) => ({ ...each, events: stage.a.accept(each.link) }));
  const hello = {
    v: 1,
    peer: stage.b.node.id,
    instance: new Uint8Array(16),
    features: [],
    limits: { calls: 1, body: 1 },
  };
  for (const { events } of ends) events.message(encodeHead(Type.HELLO, 0, 0, hello));
  for (let ms = 0; ms < 59_500; ms += 500) {
    await stage.a.runtime.advance(500);
    for (const { events } of ends) events.message(encodeMessage(Type.PONG, 0, 0, 0, new Uint8Array(8)));
  }
  expect([mine.closed(), theirs.closed()]).toEqual([0, 0]);
  await stage.a.runtime.advance(1_000);
  await quiet();
  expect([mine.closed(), theirs.closed()]).toEqual([1, 0]);
});
