export { ledger, type Ledger, type LedgerOptions } from "./ledger.ts";
export { logger, type LoggerOptions } from "./logger.ts";
export { metrics, type MetricsOptions } from "./metrics.ts";
export type { Counter, Gauge, Histogram, Labels, Metrics } from "./_published.ts";
export { tracing } from "./tracing.ts";
export { requestLog, type Redact, type RequestLogOptions } from "./request-log.ts";
