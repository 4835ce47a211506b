import { Socket } from "node:net";
import { createDatabase, type Database } from "db0";
import postgresqlConnector from "db0/connectors/postgresql";
import type pg from "pg";
import { z } from "zod";
import { checkOptions, type Plugin } from "../../core/index.ts";
import { optional } from "../../core/optional.ts";
import { openRemote, remoteOptions, shown, type Remote, type RemoteOptions } from "./_remote.ts";
import { COUNT, LEASE, MADE, RELEASE, RENEW, SCHEMA, SWEEP } from "./_postgres-tables.ts";
import { valuesIn } from "./_values.ts";

export interface PostgresOptions extends RemoteOptions {
  /** `postgres://user:password@host:5432/database`, with `?sslmode=verify-full` for TLS. */
  url: string;
}

const schema = z.strictObject({
  url: z.url({ protocol: /^postgres(ql)?$/, error: 'must be a URL such as "postgres://aimo@127.0.0.1:5432/aimo"' }),
  ...remoteOptions,
});

/** ms until a connection that is not made is given up; it may take longer than an operation. */
const CONNECT = 5_000;
/** Counts and places after which what has ended is thrown away. */
const OFTEN = 1_000;
/** What plugins ask of their own tables may be much, and has so many timeouts. */
const TABLES = 10;
/** Classes of SQLSTATE that are about the server, not the statement: no connection, read-only, no access, no room, shutting down, … */
const ABOUT_SERVER = /^(08|25|28|3D|53|57|58|F0|XX)/;
/** OIDs of bigint and numeric. */
const NUMBERS = [20, 1700];

/** What guards keep is kept in a PostgreSQL (11 or newer), which several nodes may share, tables too. Needs the package `pg`. */
export function postgres(options: PostgresOptions): Plugin {
  const { url, whenDown, timeout } = checkOptions("store-postgres", schema, options);
  const sockets = new Set<Socket>();
  let pool: pg.Pool | undefined;
  let remote: Remote | undefined;

  function reset(): void {
    for (const socket of sockets) socket.destroy();
  }

  function toSocket(): Socket {
    const socket = new Socket();
    sockets.add(socket);
    return socket.once("close", () => sockets.delete(socket));
  }

  return {
    name: "store-postgres",
    enforce: "pre",
    options: { ...shown(url), whenDown, timeout },
    provides: ["store"],
    async setup(node) {
      const { default: library } = await optional("pg", "store-postgres", () => import("pg"));
      const connections = new library.Pool({
        connectionString: url,
        connectionTimeoutMillis: CONNECT,
        // By then nobody waits any more: a connection that does not answer is closed.
        query_timeout: 2 * TABLES * timeout,
        idleTimeoutMillis: 60_000,
        keepAlive: true,
        stream: toSocket,
        // As SQLite gives them, so that plugins need not know where they are.
        types: {
          getTypeParser: ((oid: number, format: "text") =>
            NUMBERS.includes(oid) ? Number : library.types.getTypeParser(oid, format)) as typeof pg.types.getTypeParser,
        },
      });
      // One that nobody used is gone; the pool makes another.
      pool = connections.on("error", () => {});
      const { ask, start } = (remote = openRemote(node, {
        plugin: "store-postgres",
        url,
        whenDown,
        timeout,
        async probe() {
          const { rows } = await connections.query<{ made: boolean }>(MADE);
          if (rows[0]?.made !== true) await connections.query(SCHEMA);
          await connections.query(COUNT, ["aimo:probe", 1, 1]);
        },
        reset,
        refused: (error) => {
          const { code } = error as { code?: string };
          return error instanceof library.DatabaseError && code !== undefined && !ABOUT_SERVER.test(code);
        },
      }));
      const query = <Row extends pg.QueryResultRow>(sql: string, params?: unknown[]): Promise<pg.QueryResult<Row>> =>
        ask(() => connections.query<Row>(sql, params));
      const queryTables: Query = (sql, params) => ask(() => connections.query(sql, params), TABLES * timeout);
      let writes = 0;
      const sweep = (): void => {
        if (++writes % OFTEN === 0) for (const sql of SWEEP) queryTables(sql).catch(() => {});
      };

      node.provide("store", {
        kind: "postgres",
        whenDown,
        values: valuesIn(databaseOf(query)),
        database: databaseOf(queryTables),
        async count(key, points, seconds) {
          sweep();
          const { rows } = await query<{ used: number; ms: number }>(COUNT, [key, points, seconds]);
          const { used = 0, ms = 0 } = rows[0] ?? {};
          return { used, left: ms };
        },
        async lease(key, id, most, ms) {
          sweep();
          return (await query<{ got: boolean }>(LEASE, [key, id, most, ms])).rows[0]?.got === true;
        },
        renew: async (key, id, ms) => void (await query(RENEW, [key, id, ms])),
        release: async (key, id) => void (await query(RELEASE, [key, id])),
      });
      await start();
    },
    close() {
      remote?.close();
      void pool?.end().catch(() => {});
      // The server is told, but one that does not answer would not let go of a connection.
      for (const socket of sockets)
        if (socket.connecting) socket.destroy();
        else socket.destroySoon();
    },
  };
}

type Query = (sql: string, params?: unknown[]) => Promise<pg.QueryResult>;

/** The connector's own client is one connection, which is never made anew: this one is the pool. */
function databaseOf(query: Query): Database {
  const client = { connect: async () => {}, query, end: async () => {} };
  const lib = {
    Client: function () {
      return client;
    },
  };
  return createDatabase(postgresqlConnector({ lib: lib as never }));
}
