import { flagOf, type Setting, settings } from './settings.ts'

/** `docs/config.md`, from the settings table. */
export function configMarkdown(): string {
  const rows = (Object.values(settings) as Setting[]).map(setting => {
    const type =
      setting.type === 'integer'
        ? `${setting.min} … ${setting.max}${setting.unit ? ` ${setting.unit}` : ''}`
        : setting.type === 'choice'
          ? setting.choices.join(', ')
          : setting.type
    const flag = setting.secret ? 'none (secret)' : `\`${flagOf(setting)}\``
    const production = setting.production === undefined ? '' : ` In \`k8s/\`: \`${setting.production}\`.`
    return `| \`${setting.env}\` | ${flag} | ${type} | ${setting.default === undefined ? '' : `\`${setting.default}\``} | ${setting.roles.join(', ')} | ${setting.doc}${production} |`
  })
  return [
    '# Settings',
    '',
    'Generated from `src/config/settings.ts` by `npm run docs`. A flag wins over its variable. Everything is checked at start: a wrong setting is refused, and all that are wrong are named at once; a variable that starts with `PERCOLATE_` and is no setting is warned of.',
    '',
    '| variable | flag | values | default | roles | meaning |',
    '|---|---|---|---|---|---|',
    ...rows,
    '',
  ].join('\n')
}

/** `k8s/base/settings.env`, the ConfigMap that every role gets, from the settings table. */
export function productionEnv(): string {
  const lines = (Object.values(settings) as Setting[])
    .filter(({ production }) => production !== undefined)
    .map(({ env, production }) => `${env}=${production}`)
  return [
    '# Generated from the settings table (`production` in src/config/settings.ts) by "npm run docs".',
    ...lines,
    '',
  ].join('\n')
}
