import { findNode, getApi, OR_URL, toApi, type Asked } from "./ask.ts";
import { duration, plain, printJson, table } from "./table.ts";

interface Peer {
  readonly id: string;
  readonly links: readonly string[];
  readonly load: number | null;
  readonly models: number;
  /** Unix ms; null where the node does not say. */
  readonly since: number | null;
  /** Why it does not take what the node offers. */
  readonly refuses?: string;
}

export async function peers(asked: Asked): Promise<void> {
  const list = asked.url === undefined ? await ofSocket(asked) : await ofApi(toApi(asked.url));
  if (asked.json) return printJson({ data: list });
  if (list.length === 0) return void process.stdout.write("No peer is connected.\n");
  const now = Date.now();
  const rows = list.map(({ id, links, load, models, since }) => [
    id,
    links.join(", ") || "by a relay",
    load === null ? "-" : load.toFixed(2),
    String(models),
    since === null ? "-" : duration(Math.max(0, now - since)),
  ]);
  process.stdout.write(table(["PEER", "LINKS", "LOAD", "MODELS", "SINCE"], rows));
  for (const { refuses } of list) if (refuses !== undefined) process.stdout.write(`${plain(refuses)}\n`);
}

async function ofSocket(asked: Asked): Promise<Peer[]> {
  return (await (await findNode(asked.node, OR_URL)).ask<{ data: Peer[] }>("/peers")).data;
}

interface Provider {
  readonly id: string;
  readonly local: boolean;
  readonly via: readonly string[];
  readonly load: number | null;
  readonly models: readonly unknown[];
}

async function ofApi(api: string): Promise<Peer[]> {
  const { data } = await getApi<{ data: Provider[] }>(api, "/v1/providers");
  const remote = Map.groupBy(
    data.filter(({ local }) => !local),
    ({ id }) => id,
  );
  return [...remote].map(([id, providers]) => ({
    id,
    links: providers[0]?.via ?? [],
    load: providers[0]?.load ?? null,
    models: providers.reduce((sum, { models }) => sum + models.length, 0),
    since: null,
  }));
}
