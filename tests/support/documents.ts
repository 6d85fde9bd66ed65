import { crc32, deflateRawSync } from 'node:zlib'
import { utils, write } from '@e965/xlsx'
import { Document, HeadingLevel, Packer, Paragraph, Table, TableCell, TableRow } from 'docx'
import { PDFDocument, StandardFonts } from 'pdf-lib'

/** Real documents, made for tests by libraries that Percolate itself does not parse with. */

export async function makePdf(pages: readonly { heading?: string; lines: readonly string[] }[]): Promise<Buffer> {
  const pdf = await PDFDocument.create()
  const font = await pdf.embedFont(StandardFonts.Helvetica)
  for (const { heading, lines } of pages) {
    const page = pdf.addPage([595, 842])
    let y = 780
    if (heading) {
      page.drawText(heading, { x: 50, y, size: 22, font })
      y -= 40
    }
    for (const line of lines) {
      page.drawText(line, { x: 50, y, size: 11, font })
      y -= 15
    }
  }
  return Buffer.from(await pdf.save())
}

export async function makeDocx(): Promise<Buffer> {
  const row = (cells: string[]) =>
    new TableRow({ children: cells.map(cell => new TableCell({ children: [new Paragraph(cell)] })) })
  const document = new Document({
    sections: [
      {
        children: [
          new Paragraph({ text: 'Onboarding handbook', heading: HeadingLevel.HEADING_1 }),
          new Paragraph('New colleagues receive a laptop on their first day.'),
          new Paragraph({ text: 'Vacation', heading: HeadingLevel.HEADING_2 }),
          new Paragraph('Everybody has thirty days of vacation a year. Grace Hopper approves requests.'),
          new Table({ rows: [row(['Office', 'City']), row(['North', 'Hamburg']), row(['South', 'Lisbon'])] }),
        ],
      },
    ],
  })
  return Packer.toBuffer(document)
}

/** A workbook of one sheet; `merged` as in `A1:C1`. */
export function makeSheet(rows: readonly (readonly unknown[])[], merged: readonly string[] = []): Buffer {
  const sheet = utils.aoa_to_sheet(rows.map(row => [...row]))
  sheet['!merges'] = merged.map(range => utils.decode_range(range))
  const book = utils.book_new()
  utils.book_append_sheet(book, sheet, 'Sheet')
  return write(book, { type: 'buffer', bookType: 'xlsx' }) as Buffer
}

export function makeXlsx(): Buffer {
  const book = utils.book_new()
  utils.book_append_sheet(
    book,
    utils.aoa_to_sheet([
      ['Product', 'Price', 'Stock'],
      ['Anvil', 120, 4],
      ['Rocket skates', 349.5, 11],
    ]),
    'Catalogue',
  )
  utils.book_append_sheet(
    book,
    utils.aoa_to_sheet([
      ['Supplier', 'Country'],
      ['Acme', 'Norway'],
    ]),
    'Suppliers',
  )
  return write(book, { type: 'buffer', bookType: 'xlsx' }) as Buffer
}

/** A ZIP of one entry. `declared` lies about the unpacked size. */
export function makeZip(
  name: string,
  content: Buffer,
  options: { declared?: number; encrypted?: boolean } = {},
): Buffer {
  const packed = deflateRawSync(content)
  const size = options.declared ?? content.length
  const flags = options.encrypted ? 1 : 0
  const local = Buffer.alloc(30)
  local.writeUInt32LE(0x04034b50, 0)
  local.writeUInt16LE(20, 4)
  local.writeUInt16LE(flags, 6)
  local.writeUInt16LE(8, 8)
  local.writeUInt32LE(crc32(content), 14)
  local.writeUInt32LE(packed.length, 18)
  local.writeUInt32LE(size, 22)
  local.writeUInt16LE(name.length, 26)
  const central = Buffer.alloc(46)
  central.writeUInt32LE(0x02014b50, 0)
  local.copy(central, 6, 4, 30)
  const end = Buffer.alloc(22)
  end.writeUInt32LE(0x06054b50, 0)
  end.writeUInt16LE(1, 8)
  end.writeUInt16LE(1, 10)
  end.writeUInt32LE(46 + name.length, 12)
  end.writeUInt32LE(30 + name.length + packed.length, 16)
  return Buffer.concat([local, Buffer.from(name), packed, central, Buffer.from(name), end])
}

/** A small PDF that keeps a parser busy for ever: forms that draw the next form twice, forty deep, with a word at the bottom. */
export function makeSpinningPdf(): Buffer {
  const levels = 40
  const objects = [
    '<< /Type /Catalog /Pages 2 0 R >>',
    '<< /Type /Pages /Kids [3 0 R] /Count 1 >>',
    '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << /XObject << /F 6 0 R >> /Font << /T 5 0 R >> >> >>',
    stream('', '/F Do'),
    '<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>',
  ]
  for (let level = 0; level < levels; level++) {
    const next = objects.length + 2
    const isLast = level === levels - 1
    const resources = isLast ? '/Font << /T 5 0 R >>' : `/XObject << /F ${next} 0 R >>`
    const body = isLast ? 'BT /T 11 Tf 50 700 Td (spin) Tj ET' : '/F Do /F Do'
    objects.push(stream(`/Type /XObject /Subtype /Form /BBox [0 0 595 842] /Resources << ${resources} >>`, body))
  }
  let text = '%PDF-1.4\n'
  const offsets = objects.map((object, n) => {
    const at = text.length
    text += `${n + 1} 0 obj\n${object}\nendobj\n`
    return at
  })
  const table = offsets.map(at => `${String(at).padStart(10, '0')} 00000 n \n`).join('')
  text += `xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${table}trailer\n<< /Size ${objects.length + 1} /Root 1 0 R >>\nstartxref\n${text.length}\n%%EOF`
  return Buffer.from(text, 'latin1')
}

const stream = (dictionary: string, body: string): string =>
  `<< ${dictionary} /Length ${body.length} >>\nstream\n${body}\nendstream`
