import { isDeepStrictEqual } from "node:util";
import type { Settings } from "./config.ts";
import { AimoError } from "./error.ts";
import type { Plugin } from "./plugin.ts";
import { attempt, type Generation, type Plugins, type Running } from "./running.ts";

/** A generation that is up beside the one before, and is to take its place. */
export interface Staged {
  readonly generation: Generation;
  /** Those that were not there before. */
  readonly fresh: readonly Running[];
  /** Those of before that are not needed any more. */
  readonly gone: readonly Running[];
  /** One line for each thing that changed. */
  readonly changes: readonly string[];
}

/**
 * Brings up what a new config asks for. The same options keep the plugin as it runs; other options are offered to its
 * `update`; else a new one is made, and so is whatever needs it. What may fail is done first, `update` last. Throws when
 * something does not work: what was brought up is closed again, and what was updated gets its old options back.
 */
export async function stage(
  before: Generation,
  settings: Settings,
  specs: readonly Plugin[],
  plugins: Plugins,
): Promise<Staged> {
  const generation: Generation = { ...before, settings, running: [] };
  const updated: { readonly running: Running; readonly was: Plugin }[] = [];
  const brought = new Set<Running>();
  const were = new Map(before.running.map((running) => [running.spec.name, { running, spec: running.spec }]));
  const slots = specs.map((spec) => {
    const old = were.get(spec.name)?.running;
    return old && (isSame(old.spec, spec) || mayUpdate(old, spec)) ? old : make(spec);
  });
  generation.running = slots;
  follow();

  try {
    await bring(slots.filter(isFresh).filter((running) => !undecided().has(running)));
    for (const [i, spec] of specs.entries()) {
      const running = slots[i] as Running;
      if (isFresh(running) || isSame(running.spec, spec)) continue;
      if (await attempt(running.plugin, "update", () => running.plugin.update?.(spec))) {
        updated.push({ running, was: running.spec });
        running.spec = spec;
      } else slots[i] = make(spec);
    }
    follow();
    await bring(slots.filter((running) => isFresh(running) && !brought.has(running)));
  } catch (error) {
    await plugins.shut([...brought]);
    await plugins.close([...brought]);
    for (const { running, was } of updated.toReversed()) {
      running.spec = was;
      await attempt(running.plugin, "update", () => running.plugin.update?.(was)).catch(plugins.failed);
    }
    throw error;
  }
  const gone = before.running.filter((running) => !slots.includes(running));
  return { generation, fresh: slots.filter(isFresh), gone, changes: describe() };

  function make(spec: Plugin): Running {
    if (before.running.some(({ plugin }) => plugin === spec)) {
      const message = `${spec.name}: this very plugin runs with other options: call its factory again.`;
      throw new AimoError("CONFIG_INVALID", message, { plugin: spec.name });
    }
    return plugins.make(spec, generation);
  }

  function isFresh(running: Running): boolean {
    return !before.running.includes(running);
  }

  async function bring(list: readonly Running[]): Promise<void> {
    for (const running of list) brought.add(running);
    await plugins.bring(list);
  }

  /** Whatever needs a service that another plugin gives now is made anew. */
  function follow(): void {
    for (;;) {
      const at = slots.findIndex((running, i) => !isFresh(running) && moved(specs[i] as Plugin) !== undefined);
      if (at < 0) return;
      slots[at] = make(specs[at] as Plugin);
    }
  }

  function moved({ needs = [] }: Plugin): Running | undefined {
    return needs
      .map((service) => ({ is: supplier(slots, service), was: supplier(before.running, service) }))
      .find(({ is, was }) => is !== was)?.is;
  }

  /** What waits for an `update` to say whether it takes the options, and what needs that. */
  function undecided(): Set<Running> {
    const waiting = new Set(
      slots.filter((running, i) => !isFresh(running) && !isSame(running.spec, specs[i] as Plugin)),
    );
    for (let size = -1; size !== waiting.size;) {
      size = waiting.size;
      for (const running of slots)
        if (running.spec.needs?.some((service) => waiting.has(supplier(slots, service) as Running)))
          waiting.add(running);
    }
    return waiting;
  }

  function describe(): string[] {
    const lines = specs.flatMap((spec, i) => {
      const old = were.get(spec.name);
      if (old === undefined) return [`${spec.name}: new`];
      if (slots[i] === old.running && isSame(old.spec, spec)) return [];
      const keys = differing(old.spec.options, spec.options);
      const cause = keys.length === 0 && isSame(old.spec, spec) ? `, as ${moved(spec)?.spec.name} is another` : "";
      return [`${spec.name}: ${keys.join(", ") || `made anew${cause}`}`];
    });
    const off = [...were.keys()].filter((name) => !specs.some((spec) => spec.name === name));
    const kept = specs.map(({ name }) => name).filter((name) => were.has(name));
    const order = [...were.keys()].filter((name) => kept.includes(name));
    return [
      ...lines,
      ...off.map((name) => `${name}: off`),
      ...(isDeepStrictEqual(kept, order) ? [] : ["plugins: in another order"]),
      ...changesOf(before.settings, settings),
    ];
  }
}

/** Who gives a service: the last one that does. */
function supplier(running: readonly Running[], service: string): Running | undefined {
  return running.findLast(({ spec }) => (spec.provides as readonly string[] | undefined)?.includes(service));
}

/** Would a plugin made of `next` be what runs as `now` says? */
function isSame(now: Plugin, next: Plugin): boolean {
  return now === next || (isAlike(now, next) && isEqual(now.options, next.options));
}

function mayUpdate({ plugin }: Running, next: Plugin): boolean {
  return plugin.update !== undefined && isAlike(plugin, next);
}

/** The same plugin, perhaps with other options. Without options nobody can tell. */
function isAlike(now: Plugin, next: Plugin): boolean {
  return next.options !== undefined && textOf(now) === textOf(next);
}

/** Plain objects and lists by what is in them; functions, streams and the like only if they are the very same. */
function isEqual(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((each, i) => isEqual(each, b[i]));
  if (isPlain(a) && isPlain(b)) return differing(a, b).length === 0;
  return (a instanceof Uint8Array || a instanceof Date || a instanceof RegExp) && isDeepStrictEqual(a, b);
}

function isPlain(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** The fields in which two sets of options differ. */
function differing(a: unknown, b: unknown): string[] {
  if (!isPlain(a) || !isPlain(b)) return [];
  return [...new Set([...Object.keys(a), ...Object.keys(b)])].filter((key) => !isEqual(a[key], b[key]));
}

/** The source of a plugin's own functions: one whose file was edited is another, though its options are the same. */
function textOf(part: object, depth = 1): string {
  return Object.entries(Object.getOwnPropertyDescriptors(part))
    .map(([name, { value, get }]: [string, PropertyDescriptor]) => {
      if (name === "options") return "";
      if (typeof (value ?? get) === "function") return `${name} ${value ?? get}`;
      return depth > 0 && isPlain(value) ? `${name} ${textOf(value, depth - 1)}` : "";
    })
    .join("\n");
}

/** `timeouts.gap: 60000 -> 30000` */
function changesOf(before: object, now: object, path = ""): string[] {
  return Object.entries(now).flatMap(([key, value]: [string, unknown]) => {
    const was: unknown = before[key as never];
    if (key === "plugins" || key === "disable" || isEqual(was, value)) return [];
    if (isPlain(value) && isPlain(was)) return changesOf(was, value, `${path}${key}.`);
    return [`${path}${key}: ${String(was)} -> ${String(value)}`];
  });
}
