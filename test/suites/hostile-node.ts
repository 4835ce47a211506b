import {
  openIdentity,
  systemRuntime,
  type AimoNode,
  type Identity,
  type Plugin,
  type PluginList,
  type Runtime,
} from "../../core/index.ts";
import { resolveConfig } from "../../core/config.ts";
import { script, type HostilePeer } from "./hostile-peer.ts";

/** A member of a network that has a script in the place of the core: each of its links is a hostile peer. */
export interface HostileNode extends AsyncDisposable {
  readonly identity: Identity;
  /** One for each link so far, in the order in which they were made. */
  readonly peers: readonly HostilePeer[];
  /** The first one, once it is there. */
  readonly peer: Promise<HostilePeer>;
  close(): Promise<void>;
}

/** Starts transports, `memory({ network })` or `[libp2p({ join }), stream()]`, as a node would. */
export async function hostileNode(
  plugins: PluginList,
  { identity = openIdentity(), runtime = systemRuntime }: { identity?: Identity; runtime?: Runtime } = {},
): Promise<HostileNode> {
  const list = (plugins as unknown[]).flat(Infinity).filter(Boolean) as Plugin[];
  const peers: HostilePeer[] = [];
  const { promise: peer, resolve: made } = Promise.withResolvers<HostilePeer>();
  const services = new Map<string, unknown>();
  // What transports need of a node.
  const face = {
    id: identity.peerId,
    identity,
    runtime,
    config: resolveConfig({ plugins: [] }),
    log: () => undefined,
    hook: () => () => undefined,
    provide: (name: string, service: unknown) => void services.set(name, service),
    use: (name: string) => services.get(name),
    find: (name: string) => services.get(name),
  } as unknown as AimoNode;

  for (const plugin of list) await plugin.setup?.(face);
  for (const { transport } of list)
    await transport?.listen(
      (link) => {
        const { peer: each, take, ended } = script(identity, runtime, link);
        peers.push(each);
        made(each);
        return { message: take, closed: ended };
      },
      () => undefined,
    );

  const node: HostileNode = {
    identity,
    peers,
    peer,
    async close() {
      for (const plugin of list.toReversed()) await plugin.transport?.close();
      for (const plugin of list.toReversed()) await plugin.close?.();
    },
    [Symbol.asyncDispose]: () => node.close(),
  };
  return node;
}
