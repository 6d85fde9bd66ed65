# One image for every role: docker build -t percolate . && docker run percolate node --help
FROM node:22-bookworm AS build
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY . .
# On amd64 the shipped binary is made loadable, on arm64, which has none, rocksdb is compiled.
RUN node scripts/rocksdb.mjs && node scripts/build-kernel.mjs && node node_modules/typescript/bin/tsc && rm -rf dist/tests dist/bench && npm prune --omit=dev && rm -rf node_modules/typescript node_modules/wabt

FROM node:22-bookworm-slim
ENV NODE_ENV=production MALLOC_ARENA_MAX=2
WORKDIR /app
COPY --from=build /app/package.json ./
COPY --from=build /app/bin ./bin
COPY --from=build /app/dist ./dist
COPY --from=build /app/proto ./proto
COPY --from=build /app/node_modules ./node_modules
RUN install -d -o node -g node /data
USER node
ENTRYPOINT ["node", "bin/percolate.mjs"]
