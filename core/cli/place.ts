import { relative } from "node:path";
import { AimoError } from "../error.ts";

export interface Loading {
  readonly main: string;
  /** The config file, its layers, and the local modules that they import. */
  readonly files: ReadonlySet<string>;
}

/** The last load's. */
let loading: Loading | undefined;

export function setLoading(files: Loading): void {
  loading = files;
}

/**
 * `aimo.config.ts:7`, when the error arose in the config file, in a layer or in a module of its own; the config's name
 * alone for what was found in it later.
 */
function placeOf(error: unknown): string | undefined {
  if (loading === undefined || !(error instanceof Error)) return undefined;
  const { message, stack = "" } = error.cause instanceof Error ? error.cause : error;
  const { main, files } = loading;
  // Options are wrong where the factory is called that checks them.
  const [, behind = ""] = stack.split(/\n.* checkOptions .*\n.*\n/);
  // A syntax error says where in its message, a throw in its stack, with columns that are those of compiled code.
  return (
    firstPlace(message, files, /^:\d+:\d+/) ??
    firstPlace(behind, files, /^:\d+/) ??
    firstPlace(stack, files, /^:\d+/) ??
    (AimoError.is(error) && error.code === "CONFIG_INVALID" ? relative(process.cwd(), main) : undefined)
  );
}

function firstPlace(text: string, files: Iterable<string>, place: RegExp): string | undefined {
  const found = [...files].flatMap((file) => {
    for (let at = text.indexOf(file); at !== -1; at = text.indexOf(file, at + 1)) {
      const [line] = place.exec(text.slice(at + file.length)) ?? [];
      if (line !== undefined) return [{ at, where: relative(process.cwd(), file) + line }];
    }
    return [];
  });
  return found.toSorted((a, b) => a.at - b.at)[0]?.where;
}

/** An error in one sentence, with its place. */
export function explain(error: unknown): string {
  const place = placeOf(error);
  const message = error instanceof Error ? error.message : String(error);
  return place === undefined ? message : `${place}: ${message}`;
}
