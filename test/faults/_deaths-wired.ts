import { custom } from "../../plugins/providers/custom.ts";
import { createVirtualRuntime } from "../kit/virtual-runtime.ts";
import { CHUNKS, count, createTally, KINDS, STREAMS, type Kind, type Tally } from "./_deaths.ts";
import { createCheck, DONE, eventOf, type Checked } from "./_numbered.ts";
import { progress, type Run } from "./_section.ts";
import { connect, wired, type Wire, type Wired } from "./_wired.ts";

/** Virtual ms, like all times here. */
const EVERY = 10;
const STEP = 5;
const FROZEN = 5_000;
const PARTED = 8_000;
const REDIAL = 50;
/** No call may take longer than this after a death. */
const PATIENCE = 60_000;

/** Deaths between two nodes of one process, on virtual clocks: each seed is one death, at a moment of its own. */
export async function dieWired(each: number, say: Run["say"]): Promise<Tally[]> {
  const tallies = KINDS.map(createTally);
  const tell = progress(say, () => `${tallies.reduce((sum, { deaths }) => sum + deaths, 0)} deaths on virtual clocks`);
  for (let n = 0; n < each; n++)
    for (const [at, tally] of tallies.entries()) {
      await die(tally, 1 + n * KINDS.length + at);
      tell();
    }
  return tallies;
}

async function die(tally: Tally, seed: number): Promise<void> {
  const { random } = createVirtualRuntime(seed);
  const pair = await createPair(seed);
  const ended: Checked[] = [];
  let diedAt = Infinity;
  for (let stream = 0; stream < STREAMS; stream++)
    void open(pair.gateway, `${seed}.${stream}`).then((checked) => {
      ended.push(checked);
      const why = checked.why && `${checked.why} (seed ${seed})`;
      count(tally, { ...checked, ...(why && { why }) }, pair.now - diedAt);
    });
  await pair.go(20 + random() * CHUNKS * EVERY * 0.9);
  diedAt = pair.now;
  tally.deaths++;
  await pair.strike(tally.kind, random);
  while (ended.length < STREAMS && pair.now - diedAt < PATIENCE) await pair.go(20);
  for (let n = ended.length; n < STREAMS; n++) tally.wrong.push(`a call that never ended (seed ${seed})`);
  await pair.end();
}

interface Pair {
  readonly gateway: Wired;
  /** ms since its start. */
  readonly now: number;
  /** Lets time pass. */
  go(ms: number): Promise<void>;
  strike(kind: Kind, random: () => number): Promise<void>;
  end(): Promise<void>;
}

/** A gateway, and a provider that comes back by itself when its link is gone. */
async function createPair(seed: number): Promise<Pair> {
  let slept = 0; // what the provider's clock has jumped by
  let frozen = false;
  let apart = false;
  let killed = false;
  let now = 0;
  let redialAt = Infinity;
  const gateway = await wired(2 * seed, []);
  const provider = await wired(2 * seed + 1, [custom({ models: ["m"], handle })], {}, ({ now: time }) => ({
    now: () => time() + slept,
  }));
  let wire: Wire = connect(gateway, provider);

  async function handle(
    ...[request, reply, { signal }]: Parameters<NonNullable<Parameters<typeof custom>[0]["handle"]>>
  ): Promise<void> {
    const id = Buffer.from(request.body).toString();
    reply.head({ contentType: "text/event-stream" });
    for (let n = 0; n < CHUNKS; n++) {
      await new Promise<void>((resolve) => provider.clock.setTimeout(EVERY, resolve));
      if (signal.aborted) return;
      await reply.chunk(eventOf(id, n));
    }
    reply.end({ body: DONE });
  }

  function redial(): void {
    if (killed || frozen || apart || !wire.closed.b) return;
    if (redialAt === Infinity) redialAt = now + (seed % REDIAL);
    if (now < redialAt) return;
    redialAt = Infinity;
    wire = connect(gateway, provider);
  }

  const pair: Pair = {
    gateway,
    get now() {
      return now;
    },
    async go(ms) {
      for (const end = now + ms; now < end; now += STEP) {
        await gateway.clock.advance(STEP);
        if (!frozen) await provider.clock.advance(STEP);
        redial();
      }
    },
    async strike(kind, random) {
      if (kind === "kill -9") {
        killed = true;
        return wire.cut("a");
      }
      if (kind === "reset") return wire.cut();
      wire.hold();
      if (kind === "partition") {
        apart = true;
        await pair.go(random() * PARTED);
        apart = false;
      } else {
        frozen = true;
        await pair.go(FROZEN);
        frozen = false;
        slept = FROZEN;
      }
      wire.release();
    },
    async end() {
      wire.cut();
      await Promise.all([gateway.end(), provider.end()]);
    },
  };
  while ([...gateway.node.targets].length === 0) await pair.go(STEP);
  return pair;
}

async function open({ node }: Wired, id: string): Promise<Checked> {
  const check = createCheck(id, CHUNKS);
  const request = {
    type: "openai.chat",
    contentType: "text/plain",
    body: Buffer.from(id),
    model: "m",
    stream: true,
  };
  await node.open(
    request,
    {
      write(frame) {
        if (frame.messageType === "StreamChunk") check.add(Buffer.from(frame.body).toString());
        if (frame.messageType === "Error")
          check.add(`data: ${JSON.stringify({ error: { code: frame.code.toLowerCase() } })}\n\n`);
        return undefined;
      },
    },
    { origin: { kind: "local", via: "test", headers: {} }, signal: new AbortController().signal },
  );
  return check.end();
}
