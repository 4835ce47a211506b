import type { ModelCard } from "../frame.ts";
import type { TargetStats } from "../parts.ts";
import { checkKnown, findNode, getApi, OR_URL, toApi, type Asked } from "./ask.ts";
import { pairs, rounded, printJson, short, table } from "./table.ts";

/** A target; what the HTTP API does not tell is absent. */
export interface ListedTarget {
  /** `peer/provider/model` */
  readonly id: string;
  readonly model: string;
  readonly provider: string;
  readonly peer: string;
  readonly local: boolean;
  readonly via: readonly string[];
  readonly load: number | null;
  readonly card: ModelCard;
  readonly stats?: TargetStats;
  readonly routing?: { readonly figures?: Readonly<Record<string, object>>; readonly leftOutBy?: string };
}

export async function models(name: string | undefined, asked: Asked): Promise<void> {
  const all = await listTargets(asked);
  if (name !== undefined) checkKnown("model", name, [...new Set(all.map(({ model }) => model))]);
  const list = all.filter(({ model }) => name === undefined || model === name);
  if (asked.json) return printJson({ data: list });
  if (list.length === 0) return void process.stdout.write("No model can be called: no provider is connected.\n");
  const heads = [
    "MODEL",
    "PROVIDER",
    "PEER",
    "VIA",
    "$/M IN",
    "$/M OUT",
    "LOAD",
    "CALLS",
    "FAILED",
    "FIRST MS",
    "CHUNKS/S",
    "ROUTING",
  ];
  process.stdout.write(table(heads, list.map(toRow)));
}

/** From the socket with stats and routing, from the API without. */
export async function listTargets(asked: Asked): Promise<ListedTarget[]> {
  if (asked.url === undefined)
    return (await (await findNode(asked.node, OR_URL)).ask<{ data: ListedTarget[] }>("/models")).data;
  const { data } = await getApi<{ data: (Omit<ListedTarget, "card"> & { name: string; models: ModelCard[] })[] }>(
    toApi(asked.url),
    "/v1/providers",
  );
  return data.flatMap(({ id: peer, name, local, via, load, models: cards }) =>
    cards.map((card) => ({
      id: `${peer}/${name}/${card.id}`,
      model: card.id,
      provider: name,
      peer,
      local,
      via,
      load,
      card,
    })),
  );
}

function toRow({ model, provider, peer, local, via, load, card, stats, routing }: ListedTarget): string[] {
  const { prompt, completion } = card.pricing ?? {};
  const { figures = {}, leftOutBy } = routing ?? {};
  return [
    model,
    provider,
    local ? "here" : short(peer),
    local ? "-" : via.join(", ") || "by a relay",
    perMillion(prompt),
    perMillion(completion),
    load === null ? "-" : load.toFixed(2),
    number(stats?.calls),
    number(stats?.failures),
    number(stats?.firstChunk),
    number(stats?.chunksPerSecond),
    [
      ...(leftOutBy === undefined ? [] : [`left out by ${leftOutBy}`]),
      ...Object.values(figures).map((each) => pairs(rounded(each))),
    ].join("; "),
  ];
}

function perMillion(price: string | undefined): string {
  return price === undefined ? "-" : String(Number((Number(price) * 1e6).toPrecision(6)));
}

function number(value: number | undefined): string {
  return value === undefined ? "-" : String(Math.round(value));
}
