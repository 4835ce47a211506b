import { VALUES_TABLE } from "./_values.ts";

// Times are those of the server. Each statement changes one row, so that none waits for two.

/** Is everything made? Who may use the tables need not be allowed to make them. */
export const MADE = "SELECT to_regprocedure('aimo_lease(text, text, bigint, float8)') IS NOT NULL AS made";

/**
 * Counters and places are not logged: a count takes 1 ms then, and 6 where the disk has to be waited for. They begin anew
 * when the server has crashed, as they do with Redis. One transaction; several nodes may start at once, and
 * `IF NOT EXISTS` alone fails then.
 */
export const SCHEMA = `
  SELECT pg_advisory_xact_lock(hashtextextended('aimo schema', 0));
  ${VALUES_TABLE};
  CREATE UNLOGGED TABLE IF NOT EXISTS aimo_counts (key text PRIMARY KEY, used bigint NOT NULL, until timestamptz NOT NULL);
  CREATE INDEX IF NOT EXISTS aimo_counts_until ON aimo_counts (until);
  CREATE UNLOGGED TABLE IF NOT EXISTS aimo_leases (
    key text NOT NULL, id text NOT NULL, until timestamptz NOT NULL, PRIMARY KEY (key, id)
  );
  CREATE INDEX IF NOT EXISTS aimo_leases_until ON aimo_leases (until);
  CREATE OR REPLACE FUNCTION aimo_lease(wanted text, asker text, most bigint, ms float8)
  RETURNS boolean LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('aimo lease ' || wanted, 0));
    -- Not now(), which is the time before it had to wait.
    IF most <= (
      SELECT count(*) FROM aimo_leases WHERE key = wanted AND id <> asker AND until > clock_timestamp()
    ) THEN
      RETURN false;
    END IF;
    INSERT INTO aimo_leases VALUES (wanted, asker, clock_timestamp() + ms * interval '1 millisecond')
    ON CONFLICT (key, id) DO UPDATE SET until = excluded.until;
    RETURN true;
  END $$`;

export const COUNT = `
  INSERT INTO aimo_counts AS old (key, used, until) VALUES ($1, greatest(0, $2::bigint), now() + $3 * interval '1 second')
  ON CONFLICT (key) DO UPDATE SET
    used = greatest(0, CASE WHEN old.until <= now() THEN 0 ELSE old.used END + $2::bigint),
    until = CASE WHEN old.until <= now() THEN excluded.until ELSE old.until END
  RETURNING used, (extract(epoch FROM until - now()) * 1000)::float8 AS ms`;

export const LEASE = "SELECT aimo_lease($1, $2, $3, $4) AS got";

export const RENEW = `
  UPDATE aimo_leases SET until = now() + $3 * interval '1 millisecond'
  WHERE key = $1 AND id = $2 AND until > now()`;

export const RELEASE = "DELETE FROM aimo_leases WHERE key = $1 AND id = $2";

/** Nobody reads what has ended. */
export const SWEEP = ["DELETE FROM aimo_counts WHERE until < now()", "DELETE FROM aimo_leases WHERE until < now()"];
