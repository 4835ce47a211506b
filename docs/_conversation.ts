import { createNode, type AimoNode, type Link, type LinkEvents, type Plugin } from "../core/index.ts";
import { MAX_MESSAGE } from "../core/wire/codec.ts";
import { custom } from "../plugins/providers/custom.ts";
import { chat, collect } from "../test/suites/build.ts";
import { createVirtualRuntime, settle, type VirtualRuntime } from "../test/suites/virtual-runtime.ts";
import { hex, told } from "./_told.ts";

interface End {
  readonly name: string;
  readonly node: AimoNode;
  readonly runtime: VirtualRuntime;
  readonly accept: (link: Link) => LinkEvents;
}

/** One streamed call between two real nodes, from HELLO to DONE: all that goes over their link, in order. */
export async function conversation(): Promise<object[]> {
  const sent: object[] = [];
  const provider = await start("provider", 2, [
    custom({
      models: ["m/1"],
      async *generate() {
        yield 'data: {"n":1}\n\n';
        yield "data: [DONE]\n\n";
      },
    }),
  ]);
  const gateway = await start("gateway", 1, []);
  connect(gateway, provider, sent);
  while ([...gateway.node.targets].length === 0) await settle();
  await settle();
  const request = { ...chat("m/1", { stream: true }), requestId: "00112233445566778899aabbccddeeff" };
  await collect(gateway.node, request);
  for (let i = 0; i < 3; i++) await settle(); // DONE is on its way
  const recorded = [...sent];
  const closed = [gateway, provider].map(({ node }) => node.close());
  for (const { runtime } of [gateway, provider]) await runtime.advance(60_000);
  await Promise.all(closed);
  return recorded;
}

async function start(name: string, seed: number, plugins: readonly Plugin[]): Promise<End> {
  const runtime = createVirtualRuntime(seed);
  let accept: End["accept"] | undefined;
  const transport: Plugin = {
    name: "transport-told",
    transport: { listen: (take) => void (accept = take), close: () => undefined },
  };
  const node = await createNode({ plugins: [transport, ...plugins], drain: 0 }, runtime);
  if (accept === undefined) throw new Error("the node did not listen");
  return { name, node, runtime, accept };
}

/** `from` dials. */
function connect(from: End, to: End, sent: object[]): void {
  const ends = new Map<string, LinkEvents>();
  let open = true;
  const link = (self: End, other: End): Link => ({
    peer: other.node.id,
    via: "told",
    rank: 0,
    dialled: self === from,
    caps: { ordered: true, reliable: true, private: true, backpressure: true, maxMessage: MAX_MESSAGE },
    send(messages) {
      for (const bytes of messages) {
        sent.push({ from: self.name, ...told(bytes), hex: hex(bytes) });
        const copy = Uint8Array.from(bytes);
        setImmediate(() => ends.get(other.name)?.message(copy));
      }
      return undefined;
    },
    close() {
      if (!open) return;
      open = false;
      for (const { closed } of ends.values()) closed();
    },
  });
  const accepted = [from, to].map((self) => [self.name, self.accept(link(self, self === from ? to : from))] as const);
  for (const [name, events] of accepted) ends.set(name, events);
}
