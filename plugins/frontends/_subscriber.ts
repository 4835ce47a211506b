import { AimoError } from "../../core/error.ts";
import type { ModelCard } from "../../core/frame.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Handler } from "../../core/parts.ts";
import type { Connection } from "./_old-connection.ts";
import { toOldRequest } from "./_old-frames.ts";

/** Of one that says nothing of its models. */
const MAX_MODELS = 64;
const MAX_NAME = 256;
const TYPES = ["openai.chat"];

/** A wallet that serves models, over one connection or several. */
export interface Subscriber {
  readonly connections: Set<Connection>;
  /** What the config says that it offers; undefined: nothing. */
  declare(models: readonly (string | ModelCard)[] | undefined): void;
  /** What it says itself: to be called by `wallet:name` alone, so that nobody can take over a name that others serve. */
  claim(names: readonly string[]): void;
  /**
   * A client names a model that nobody has told of. The old nodes passed on any name, and so it is offered for this call,
   * and kept when the provider has answered: `tried` says how it went. Undefined when it is told already, or cannot be.
   */
  try(name: string): ((answered: boolean) => void) | undefined;
  /** Takes the provider off the node. */
  leave(): void;
}

/** Throws CONFIG_INVALID when a provider of the node has that name. */
export function createSubscriber(node: AimoNode, wallet: string): Subscriber {
  const connections = new Set<Connection>();
  const prefix = `${wallet}:`;
  /** Those that only clients know, with the calls that try them; 0: one was answered. */
  const names = new Map<string, number>();
  let declared: readonly ModelCard[] | undefined;
  let models: readonly ModelCard[] = [];

  function refresh(): void {
    models = declared ?? [...names.keys()].map((name) => ({ id: prefix + name, name, types: TYPES }));
  }

  const handle: Handler = async (request, reply, call) => {
    const { model = "", requestId: id } = request;
    const message = toOldRequest(request, wallet, model.startsWith(prefix) ? model.slice(prefix.length) : model);
    const { pricing } = models.find((card) => card.id === model) ?? {};
    const tried = new Set<Connection>();
    for (let connection = pick(connections, tried); connection !== undefined; connection = pick(connections, tried)) {
      tried.add(connection);
      if (await connection.ask({ id, message, pricing }, reply, call.signal)) return;
    }
    throw new AimoError("NETWORK_ERROR", "The provider's connection broke.");
  };

  const provider = {
    name: wallet,
    get models() {
      return models;
    },
    handle,
  };
  const leave = node.serve(provider);

  return {
    connections,
    declare(given) {
      declared = given?.map((model) => (typeof model === "string" ? { id: model, types: TYPES } : model));
      refresh();
    },
    claim(said) {
      for (const name of said) if (names.size < MAX_MODELS && name.length <= MAX_NAME) names.set(name, 0);
      refresh();
    },
    try(name) {
      const trying = names.get(name);
      if (declared !== undefined || trying === 0 || name.length > MAX_NAME) return undefined;
      if (trying === undefined && names.size >= MAX_MODELS) return undefined;
      names.set(name, (trying ?? 0) + 1);
      refresh();
      return (answered) => {
        const left = names.get(name) ?? 0;
        if (left === 0) return;
        if (answered) names.set(name, 0);
        else if (left > 1) names.set(name, left - 1);
        else names.delete(name);
        refresh();
      };
    },
    leave,
  };
}

/** The least busy; of equals the newest, because the old one may be dead already. */
function pick(connections: ReadonlySet<Connection>, tried: ReadonlySet<Connection>): Connection | undefined {
  const left = [...connections].filter((connection) => !tried.has(connection));
  return left.reduceRight<Connection | undefined>(
    (best, connection) => (best === undefined || connection.calls < best.calls ? connection : best),
    undefined,
  );
}
