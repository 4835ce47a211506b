export { logger, type LoggerOptions } from "./logger.ts";
