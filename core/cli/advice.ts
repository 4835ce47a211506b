import type { Settings } from "../config.ts";
import type { Plugin } from "../plugin.ts";

/** What a node is made of, as far as advice goes. */
interface Shape {
  readonly relay: boolean;
  readonly servers: readonly Plugin[];
  /** What brings calls in. */
  readonly doors: readonly Plugin[];
  readonly mounted: boolean;
  readonly routers: readonly Plugin[];
  readonly providers: readonly Plugin[];
  readonly transports: readonly Plugin[];
  /** Transports that leave this process. */
  readonly far: readonly Plugin[];
  readonly hosts: readonly Plugin[];
  readonly hosted: boolean;
  /** It is said who may provide. */
  readonly limitsOffers: boolean;
}

interface Advice {
  when(node: Shape): boolean;
  say(node: Shape): string;
}

/** What is legal and cannot work, and what to do. */
const TABLE: readonly Advice[] = [
  {
    when: (node) => has(node.doors) && !has(node.providers) && !has(node.transports),
    say: () =>
      "Clients can ask this node, but nobody can answer: it has neither a provider nor a transport to others. " +
      'Add `demo()` or `openai({ url })` from "aimo/providers", or `libp2p({ listen: […] })` and `stream()` from "aimo/transports".',
  },
  {
    when: (node) => has(node.doors) && !has(node.providers) && has(node.transports) && !has(node.far),
    say: ({ transports }) =>
      `This node has no provider, and ${names(transports)} reaches only nodes of the same process: ` +
      'add `libp2p({ listen: […] })` and `stream()` from "aimo/transports", unless there is such a node.',
  },
  {
    when: (node) => has(node.providers) && !has(node.doors) && !has(node.servers) && !has(node.transports),
    say: ({ providers }) =>
      `Nobody can ask ${names(providers)}: this node has neither a transport nor a frontend. ` +
      'Add `libp2p({ join: […] })` and `stream()` from "aimo/transports", or `http()` and `openaiApi()` from "aimo/frontends".',
  },
  {
    when: (node) => has(node.servers) && !node.mounted,
    say: ({ servers }) =>
      `${names(servers)} listens, but nothing is mounted on it, so that it answers 404 to all: add \`openaiApi()\` or \`aimoApi()\` from "aimo/frontends", or leave it out.`,
  },
  {
    when: (node) => has(node.hosts) && !node.hosted,
    say: ({ hosts }) =>
      `${names(hosts)} is of no use without a transport over it: add \`stream()\` or \`pubsub()\` from "aimo/transports", or leave it out.`,
  },
  {
    when: (node) => node.hosted && node.hosts.some(isAlone),
    say: ({ hosts }) =>
      `${names(hosts)} neither listens nor joins, so that no peer can ever be met: give it \`listen\` or \`join\`.`,
  },
  {
    when: (node) => has(node.routers) && !has(node.doors) && node.providers.length === 1,
    say: ({ routers }) =>
      `${names(routers)} has nothing to choose from: the calls of peers are for the one provider of this node. Leave it out, or add a frontend.`,
  },
  {
    when: (node) => node.limitsOffers && has(node.providers) && !has(node.doors) && !node.relay,
    say: () =>
      "`provide` of guard-trust says who may offer models here, but nobody can ask this node for any but its own: " +
      "what others gave this node goes into `invites`, and who may call it into `call`.",
  },
  {
    when: (node) => isIdle(node) && !node.relay,
    say: () =>
      "This node has nothing to do: it has neither a frontend nor a provider. Add one, or let it pass on calls between its peers with `relay: true`.",
  },
  {
    when: (node) => node.relay && !has(node.far),
    say: () =>
      '`relay: true` passes on calls between peers, but there is no transport to any: add `libp2p({ listen: […] })` and `stream()` from "aimo/transports".',
  },
];

/** One sentence for each thing that this node, though legal, cannot do; `plugins` as `loadPlugins` gives them. */
export function adviseOn(plugins: readonly Plugin[], { relay = false }: Partial<Pick<Settings, "relay">>): string[] {
  const needing = (service: string): Plugin[] =>
    plugins.filter(({ needs }) => (needs as readonly string[] | undefined)?.includes(service));
  const giving = (service: string): Plugin[] =>
    plugins.filter(({ provides }) => (provides as readonly string[] | undefined)?.includes(service));
  const servers = giving("http");
  const mounting = needing("http");
  const transports = plugins.filter(({ transport }) => transport);
  const node: Shape = {
    relay,
    servers,
    doors: plugins.filter(
      (plugin) =>
        (plugin.frontend || mounting.includes(plugin)) &&
        !servers.includes(plugin) &&
        !/^(observer-|frontend-admin)/.test(plugin.name),
    ),
    mounted: has(mounting),
    routers: plugins.filter(({ router }) => router),
    providers: plugins.filter(({ provider }) => provider),
    transports,
    far: transports.filter(({ name }) => name !== "transport-memory"),
    hosts: giving("libp2p"),
    hosted: has(needing("libp2p")),
    limitsOffers: plugins.some(limitsOffers),
  };
  return TABLE.filter(({ when }) => when(node)).map(({ say }) => say(node));
}

function names(list: readonly Plugin[]): string {
  return list.map(({ name }) => name).join(", ");
}

function has(list: readonly Plugin[]): boolean {
  return list.length > 0;
}

function isIdle({ doors, servers, providers }: Shape): boolean {
  return !has(doors) && !has(servers) && !has(providers);
}

function limitsOffers({ name, options }: Plugin): boolean {
  const { provide } = (options ?? {}) as { provide?: { allow?: unknown } };
  return name === "guard-trust" && provide?.allow !== undefined;
}

function isAlone({ name, options }: Plugin): boolean {
  const { listen = [], join = [] } = (options ?? {}) as { listen?: unknown[]; join?: unknown[] };
  return name === "host-libp2p" && listen.length + join.length === 0;
}
