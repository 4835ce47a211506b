import type { Database } from "db0";
import { createStorage, type Storage } from "unstorage";
import tableDriver from "unstorage/drivers/db0";

/** Values in a table of their own. */
export function valuesIn(database: Database): Storage {
  // Else the driver writes a warning to stderr that no operator can act on: that it is younger than others.
  Object.assign(globalThis, { __unstorage_db0_experimental_warning__: true });
  return createStorage({ driver: tableDriver({ database, tableName: "aimo_values" }) });
}
