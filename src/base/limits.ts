/** Bounds that no operator needs to change. Those that one might are settings (`src/config/settings.ts`). */

export const TENANT_ID_PATTERN = '^[a-z0-9][a-z0-9_-]{0,62}$'
/** UTF-8 bytes of a user-given id: entity, moment, edge type. Keys stay well below RocksDB's comfort. */
export const ID_BYTES_MAX = 512
export const URI_BYTES_MAX = 2048
export const NAME_BYTES_MAX = 1024
export const CATEGORY_BYTES_MAX = 256
/** UTF-8 bytes of one resource's content: a chunk, not a document. */
export const CONTENT_BYTES_MAX = 128 * 1024
/** Bytes of metadata or properties of one record, as JSON. */
export const METADATA_BYTES_MAX = 64 * 1024
export const METADATA_DEPTH_MAX = 16
/** String metadata values up to this many bytes are indexed for equality filters. */
export const METADATA_INDEXED_BYTES_MAX = 256
export const METADATA_INDEXED_KEYS_MAX = 64
export const BATCH_ITEMS_MAX = 1000
export const EDGES_PER_REQUEST_MAX = 1000
export const ALIASES_MAX = 64
export const REFERENCES_MAX = 1000
export const DIMENSIONS_MAX = 4096
/** Results of one answer, of a listing and of a search alike. */
export const LIST_LIMIT_MAX = 1000
export const LIST_LIMIT_DEFAULT = 50
/** UTF-8 bytes of the results in one answer, as JSON, about; a page ends early rather than hold the event loop. */
export const PAGE_BYTES_MAX = 4 * 1024 * 1024
export const SEARCH_LIMIT_DEFAULT = 10
/** How deep a search can be paged. */
export const SEARCH_DEPTH_MAX = 1000
export const QUERY_CHARS_MAX = 4096
/** Characters of a time by which a listing is bounded, as text: twice what the longest usual one has. */
export const TIME_CHARS_MAX = 64
/** Characters of the ETags in one condition: what the head of an HTTP request has room for. */
export const IF_MATCH_CHARS_MAX = 16 * 1024
/** Different words of a query that are looked up, the first ones; each is a range of the index. In scripts without spaces each pair of characters is a word. */
export const QUERY_TERMS_MAX = 256
export const FILTER_CLAUSES_MAX = 64
/** Values in the lists of one filter, all together. */
export const FILTER_VALUES_MAX = 1000
/** Characters of the texts in one filter, all together. */
export const FILTER_CHARS_MAX = 256 * 1024
export const FILTER_DEPTH_MAX = 8
/** JSON values in the body of a search, about: all that its filter and its embedding may have, twice. */
export const SEARCH_VALUES_MAX = 2 * (FILTER_VALUES_MAX + DIMENSIONS_MAX)
/** Members of objects, objects and lists in one JSON body, all together: 200 a record of the largest batch. */
export const BODY_PARTS_MAX = 200_000
/** Texts, byte strings and messages in one message of a gRPC call, all together: 250 a record of the largest batch. Made of a message that has so many they take some 50 MB, and a quarter of a second. */
export const MESSAGE_VALUES_MAX = 250_000
/** Bytes of one entity, about: names, aliases and properties, also those that were removed. Edges are records of their own. */
export const ENTITY_BYTES_MAX = 256 * 1024
/** Bytes of one edge, about: its properties, also those that were removed. Twice what one request may carry of them. */
export const EDGE_BYTES_MAX = 128 * 1024
/** UTF-8 bytes of one entity's name and aliases together: every three characters of a name are an index entry that holds all of it. */
export const ENTITY_NAMES_BYTES_MAX = 8 * 1024
/** How deep entities found by name can be paged. */
export const FIND_DEPTH_MAX = 10_000
export const TRAVERSE_DEPTH_MAX = 10
/** Entities and edges that one traversal visits before it stops and says `truncated`. */
export const TRAVERSE_VISITS_MAX = 10_000
/** Bytes of entities and edges, as they are stored, that one traversal reads before it stops and says `truncated`; it holds no more of them than that. */
export const TRAVERSE_BYTES_MAX = 4 * PAGE_BYTES_MAX
export const CURSOR_CHARS_MAX = 4096
export const CHAT_MESSAGES_MAX = 100
export const CHAT_CHARS_MAX = 64 * 1024
/** Encoded bytes of one outbox entry; stays below NATS's default `max_payload` of 1 MiB. */
export const ENTRY_BYTES_MAX = 512 * 1024
/** Commands that share one fsync. */
export const GROUP_COMMANDS_MAX = 256
/** Ops that share one fsync; a larger command commits alone. */
export const GROUP_OPS_MAX = 4000
/** Bytes of text that share one fsync; a larger command commits alone. Text without spaces makes a posting of every three bytes. */
export const GROUP_TEXT_BYTES_MAX = 1024 * 1024
/** Batches with more text to index than this take turns, over all tenants of a node. */
export const LARGE_BATCH_TEXT_BYTES = 256 * 1024
/** Memory that a command's records and index entries may take while they are written, about, for each byte of the largest body; a command that would take more is refused. */
export const STAGED_BYTES_PER_BODY_BYTE = 64
/** The least that counts as the largest body there: settings below it bound what is sent at once, not one item that is allowed. */
export const STAGED_BODY_BYTES_MIN = 1024 * 1024
/** Commands that wait for a tenant's writer before new ones get TOO_BUSY. */
export const WRITER_QUEUE_MAX = 4096
/** Bytes of the file that a node gives up when its disk is so full that no database opens: enough to open one after another, each with a log as large as its memtable. */
export const BALLAST_BYTES = 8 * 1024 * 1024
/** Longest stretch of our own computation between two turns of the event loop, milliseconds. */
export const SLICE_MS_MAX = 2

/** A bookmark or a feed's cursor as text. It has to fit, with all else, into the head of a request: Node takes 16 KiB (`--max-http-header-size`), HAProxy 15. */
export const BOOKMARK_CHARS_MAX = 12 * 1024
