import { openai } from "../../../plugins/providers/openai.ts";
import type { Libp2pOptions } from "../../../plugins/transports/libp2p.ts";
import { resolveConfig } from "../../config.ts";
import type { ListedPlugin } from "../../listing.ts";
import { loadPlugins, type Plugin } from "../../plugin.ts";
import { findSocket, running, type Running } from "../ask.ts";
import { effective, type ConfigOptions } from "../effective.ts";
import { isAlive, socketIn } from "../../../plugins/frontends/_admin-socket.ts";

/** A node that runs here. */
export interface Own {
  readonly id: string;
  readonly pid: number;
  readonly api: string | null;
  readonly addresses: readonly string[];
  readonly dataDir: string | null;
}

/** What a check-up is about. */
export interface Subject {
  readonly dataDir?: string | undefined;
  readonly own?: Own | undefined;
  readonly http?: { readonly host: string; readonly port: number } | undefined;
  readonly listen: readonly string[];
  readonly join: readonly string[];
  readonly encrypt?: Libp2pOptions["encrypt"];
  /** Masked. */
  readonly store?: string | undefined;
  readonly providers: readonly Plugin[];
  /** It has models of its own. */
  readonly serves: boolean;
  /** Sentences about peers that do not take these, as the node that runs knows. */
  readonly refusals: ReadonlyMap<string, string>;
}

/** Of a config file. Throws CONFIG_INVALID. */
export async function ofConfig(options: ConfigOptions): Promise<{ subject: Subject; file: string }> {
  const { file, config } = await effective(options);
  const { plugins: list, disable, dataDir } = resolveConfig(config);
  const plugins = loadPlugins(list, disable);
  const socket = dataDir === undefined ? undefined : socketIn(dataDir);
  const node = socket !== undefined && (await isAlive(socket)) ? running(socket) : undefined;
  const providers = plugins.filter(({ provider }) => provider);
  return {
    file,
    subject: {
      dataDir,
      own: await node?.ask<Own>("/node"),
      ...partsOf(plugins),
      providers,
      serves: providers.length > 0,
      refusals: await refusalsOf(node),
    },
  };
}

/** Of the node that runs here, whatever it was started with; undefined when there is none. */
export async function ofRunning(named?: string): Promise<Subject | undefined> {
  const socket = await findSocket(named);
  if (socket === undefined) return undefined;
  const node = running(socket);
  const [own, { data }] = await Promise.all([node.ask<Own>("/node"), node.ask<{ data: ListedPlugin[] }>("/plugins")]);
  const on = data.filter((plugin) => plugin.on);
  const urls = on.flatMap(({ name, options }) =>
    name.split(":")[0] === "provider-openai" ? (options as { url: string; models?: string[] }) : [],
  );
  const providers = urls.map(({ url, models }) => openai({ url, ...(models && { models }) }));
  return {
    dataDir: own.dataDir ?? undefined,
    own,
    ...partsOf(on),
    providers,
    serves: on.some(({ kind }) => kind === "provider"),
    refusals: await refusalsOf(node),
  };
}

async function refusalsOf(node: Running | undefined): Promise<ReadonlyMap<string, string>> {
  const { data } = (await node?.ask<{ data: { id: string; refuses?: string }[] }>("/peers")) ?? { data: [] };
  return new Map(data.flatMap(({ id, refuses }) => (refuses === undefined ? [] : [[id, refuses] as const])));
}

function partsOf(
  plugins: readonly Pick<Plugin, "name" | "options">[],
): Pick<Subject, "http" | "listen" | "join" | "encrypt" | "store"> {
  const optionsOf = <T>(name: string): T | undefined => plugins.find((plugin) => plugin.name === name)?.options as T;
  const { listen = [], join = [], encrypt } = optionsOf<Libp2pOptions>("host-libp2p") ?? {};
  const { url: store } = optionsOf<{ url?: string }>("store-redis") ?? optionsOf("store-postgres") ?? {};
  return { http: optionsOf("frontend-http"), store, listen, join, ...(encrypt && { encrypt }) };
}
