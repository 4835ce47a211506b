import { AimoError } from "./error.ts";
import { ownPackage } from "./package.ts";

/**
 * Loads a package that is installed only where it is needed: `await optional("redis", "guard-limits", () => import("redis"))`.
 * `user` is the plugin. When the package is not there, throws CONFIG_INVALID naming it and how to install it, in the
 * version that aimo's `peerDependencies` ask for if they do; everything else that `load` throws passes through.
 */
export async function optional<T>(name: string, user: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (cause) {
    if (!isMissing(name, cause)) throw cause;
    const range = ownPackage().peerDependencies[name];
    const spec = range === undefined ? name : `${name}@${range}`;
    // A shell would take `>=4` for a file to write to.
    const quoted = /[^\w@/.^~-]/.test(spec) ? `"${spec}"` : spec;
    throw new AimoError("CONFIG_INVALID", `${user} needs the package ${name}: npm install ${quoted}`, {
      plugin: user,
      cause,
    });
  }
}

/** Not a module that the package itself misses: that one's importer is named in the message, without quotes. */
function isMissing(name: string, cause: unknown): boolean {
  const { code, message = "" } = (cause ?? {}) as NodeJS.ErrnoException;
  return /^(ERR_)?MODULE_NOT_FOUND$/.test(code ?? "") && message.includes(`'${name}'`);
}
