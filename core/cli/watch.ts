import { watch as watchFolder, type FSWatcher } from "node:fs";
import { dirname, join } from "node:path";

export interface Watch {
  /** Its changes count from now on. A file that is not there yet may come. Until `keep`, so do other modules beside it: one of them may be missing. */
  add(file: string): void;
  /** These are all. */
  keep(files: readonly string[]): void;
}

/** Editors write a file in several steps. ms */
const SETTLED = 50;
const MODULE = /\.([cm]?[jt]s|json)$/;

/** Calls back when one of some files was written, came or went. Folders are watched, as editors replace files instead of writing them. */
export function watchFiles(changed: () => void): Watch {
  const files = new Set<string>();
  const folders = new Map<string, FSWatcher>();
  let whole = false;
  let timer: NodeJS.Timeout | undefined;

  function open(folder: string): void {
    if (folders.has(folder)) return;
    try {
      const watcher = watchFolder(folder, { persistent: false }, (_, name) => {
        if (name !== null && !files.has(join(folder, name)) && (whole || !MODULE.test(name))) return;
        clearTimeout(timer);
        timer = setTimeout(changed, SETTLED);
      });
      watcher.on("error", () => close(folder));
      folders.set(folder, watcher);
    } catch {
      // It is gone already: nothing in it can change.
    }
  }

  function close(folder: string): void {
    folders.get(folder)?.close();
    folders.delete(folder);
  }

  return {
    add(file) {
      whole = false;
      files.add(file);
      open(dirname(file));
    },
    keep(list) {
      whole = true;
      files.clear();
      for (const file of list) files.add(file);
      const needed = new Set(list.map((file) => dirname(file)));
      for (const folder of [...folders.keys()]) if (!needed.has(folder)) close(folder);
    },
  };
}
