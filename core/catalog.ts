import type { Origin } from "./call.ts";
import { AimoError } from "./error.ts";
import type { ModelCard, RequestFrame } from "./frame.ts";
import type { Listeners } from "./listeners.ts";
import type { Handler, Mutable, Provider, Target, TargetStats, Translator } from "./parts.ts";
import type { Runtime } from "./runtime.ts";

/** A model that went away this short a time ago is "no provider right now", not "unknown". */
const REMEMBER_MS = 60_000;
const REMEMBERED = 4_096;
/** A provider that comes back is still known by its stats; the oldest are forgotten. */
const STATS_KEPT = 20_000;

export interface Offer {
  readonly provider: string;
  readonly models: readonly ModelCard[];
}

/** Who offers what: the targets, from local providers and from adverts. */
export interface Catalog {
  readonly targets: Iterable<Target>;
  /** The local providers and the translators from now on, instead of those before: the former come before all peers, in this order. */
  serve(providers: readonly Provider[], translators?: readonly Translator[]): void;
  /** One more, behind those that are served; the result takes it off. Throws CONFIG_INVALID when its name is taken. */
  add(provider: Provider): () => void;
  /** What a peer offers now, instead of what it offered before. */
  offer(peer: string, offers: readonly Offer[], load: number | undefined, handle: (target: string) => Handler): void;
  withdraw(peer: string): void;
  /** Local providers with what they offer now; the array is a new one only when something changed. */
  local(): readonly Offer[];
  /** Can it be asked with requests of this type, by itself or through a translator? */
  answers(target: Target, type: string): boolean;
  /** Never empty: throws MODEL_NOT_FOUND, PROVIDER_NOT_FOUND or NO_PROVIDER. */
  find(request: Readonly<RequestFrame>, origin: Origin): Target[];
}

/** `relay`: peers may name targets of third nodes. */
export function createCatalog(
  self: string,
  runtime: Runtime,
  hooks: Pick<Listeners, "tell">,
  relay: () => boolean = () => false,
): Catalog {
  let providers: readonly Provider[] = [];
  const added = new Set<Provider>();
  let translators: readonly Translator[] = [];
  /** The lists of models that the local targets are made of. */
  let lists: readonly (readonly ModelCard[])[] = [];
  let own: readonly Target[] = [];
  let stale = false;
  const peers = new Map<string, readonly Target[]>();
  const stats = new Map<string, Mutable<TargetStats>>();
  const gone = new Map<string, number>();
  let byModel = new Map<string, Target[]>();
  let offers: readonly Offer[] = [];

  function statsOf(id: string): Mutable<TargetStats> {
    let found = stats.get(id);
    if (found === undefined) {
      stats.set(id, (found = { inFlight: 0, calls: 0, failures: 0, failuresInRow: 0 }));
      if (stats.size > STATS_KEPT) stats.delete(stats.keys().next().value as string);
    }
    return found;
  }

  function all(): Target[] {
    return [own, ...peers.values()].flat();
  }

  /** Replaces one peer's targets. */
  function put(peer: string, next: readonly Target[]): void {
    const before = peers.get(peer) ?? [];
    if (next.length > 0) peers.set(peer, next);
    else peers.delete(peer);
    changed(before, next);
  }

  function changed(before: readonly Target[], next: readonly Target[]): void {
    byModel = Map.groupBy(all(), (target) => target.model.id);
    const now = new Set(next.map((target) => target.id));
    const then = new Set(before.map((target) => target.id));
    const removed = before.filter((target) => !now.has(target.id));
    for (const target of removed) {
      remember(target.model.id);
      remember(target.peer);
    }
    const added = next.filter((target) => !then.has(target.id));
    if (added.length + removed.length > 0) hooks.tell("catalog:change", added, removed);
  }

  function remember(name: string): void {
    gone.delete(name);
    gone.set(name, runtime.now() + REMEMBER_MS);
    if (gone.size > REMEMBERED) gone.delete(gone.keys().next().value as string);
  }

  function make(
    peer: string,
    provider: string,
    model: ModelCard,
    handler: (target: string) => Handler,
    load?: number,
  ): Target {
    const id = `${peer}/${provider}/${model.id}`;
    const local = peer === self;
    return {
      id,
      peer,
      provider,
      local,
      model,
      ...(load !== undefined && { load }),
      stats: statsOf(id),
      handle: handler(id),
    };
  }

  function use(next: readonly Provider[]): void {
    stale ||= next.length !== providers.length || next.some((provider, i) => provider !== providers[i]);
    providers = next;
  }

  /** A provider shows a changed list by giving a new array. */
  function refresh(): void {
    if (stale || providers.some(({ models }, i) => models !== lists[i])) rebuild();
  }

  function rebuild(): void {
    const before = own;
    stale = false;
    lists = providers.map(({ models }) => models);
    offers = providers.map(({ name: provider }, i) => ({ provider, models: lists[i] ?? [] }));
    own = providers.flatMap(({ name: provider, handle }, i) =>
      (lists[i] ?? []).map((card) => make(self, provider, card, () => handle)),
    );
    changed(before, own);
  }

  function missing(request: Readonly<RequestFrame>): AimoError {
    const { model, providerId } = request;
    const until = Math.max(gone.get(model ?? "") ?? 0, gone.get(providerId ?? "") ?? 0);
    const none = all().length === 0;
    if (none || until > runtime.now()) {
      const what = none ? "No provider is connected" : `No provider offers ${name(model ?? providerId)} right now`;
      return new AimoError("NO_PROVIDER", `${what}; try again shortly.`, { retryAfter: 2_000, param: "model" });
    }
    const pinned = providerId !== undefined && !all().some((target) => matches(target, providerId));
    if (pinned)
      return new AimoError("PROVIDER_NOT_FOUND", `There is no provider ${name(providerId)}.`, { param: "model" });
    const where = providerId === undefined ? "" : ` at the provider ${name(providerId)}`;
    const type = model !== undefined && byModel.has(model) ? ` for requests of type ${request.type}` : "";
    return new AimoError(
      "MODEL_NOT_FOUND",
      `The model ${name(model)} does not exist${where}${type}. GET /v1/models lists what can be called.`,
      {
        param: "model",
      },
    );
  }

  return {
    get targets() {
      refresh();
      return all();
    },
    serve(next, bridges = []) {
      translators = bridges;
      use([...next, ...added]);
    },
    add(provider) {
      const { name: taken } = provider;
      if (providers.some(({ name: other }) => other === taken))
        throw new AimoError("CONFIG_INVALID", `There is a provider ${JSON.stringify(taken)} already.`);
      added.add(provider);
      use([...providers, provider]);
      return () => void (added.delete(provider) && use(providers.filter((other) => other !== provider)));
    },
    offer: (peer, list, load, handle) =>
      put(
        peer,
        list.flatMap(({ provider, models }) => models.map((card) => make(peer, provider, card, handle, load))),
      ),
    withdraw: (peer) => peers.has(peer) && put(peer, []),
    local() {
      refresh();
      return offers;
    },
    answers: (target, type) => target.model.types.includes(type) || bridgeFor(target, type) !== undefined,
    find(request, origin) {
      refresh();
      const { type, model, fallbacks = [], providerId } = request;
      const named =
        model === undefined ? all() : [...new Set([model, ...fallbacks])].flatMap((id) => byModel.get(id) ?? []);
      const open = named.filter(
        (target) =>
          (target.local || origin.kind !== "peer" || (relay() && target.id === providerId)) &&
          (providerId === undefined || matches(target, providerId)),
      );
      const native = open.filter((target) => target.model.types.includes(type));
      const found = [
        ...native,
        ...open.filter((target) => !native.includes(target)).flatMap((target) => translated(target, type)),
      ];
      if (found.length === 0) throw missing(request);
      return found;
    },
  };

  function bridgeFor({ model }: Target, type: string): Translator | undefined {
    return translators.find(({ from, to }) => from === type && model.types.includes(to));
  }

  function translated(target: Target, type: string): Target[] {
    const bridge = bridgeFor(target, type);
    return bridge === undefined ? [] : [{ ...target, translated: true, handle: bridge.wrap(target.handle) }];
  }
}

/** A peer, one target, or the name of a local provider: names of others prove nothing. */
function matches(target: Target, providerId: string): boolean {
  return target.peer === providerId || target.id === providerId || (target.local && target.provider === providerId);
}

function name(text: string | undefined): string {
  return text === undefined ? "(none named)" : JSON.stringify(text.length > 100 ? `${text.slice(0, 100)}…` : text);
}
