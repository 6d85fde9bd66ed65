import mammoth from 'mammoth'
import { PercolateError } from '../../src/base/errors.ts'
import type { ParsedDocument, ParseInput } from './document.ts'
import { htmlBlocks } from './html.ts'
import { checkZip } from './zip.ts'

/** Word documents: mammoth turns styles into semantic HTML, whose structure we keep. Images are left out. */
export async function parseDocx(input: ParseInput): Promise<ParsedDocument> {
  await checkZip(input.path, input.name, input.outputBytesMax)
  try {
    const { value } = await mammoth.convertToHtml(
      { path: input.path },
      {
        convertImage: mammoth.images.imgElement(async () => ({ src: '' })),
        includeDefaultStyleMap: true,
        styleMap: ["p[style-name='Title'] => h1:fresh", "p[style-name='Subtitle'] => h2:fresh"],
      },
    )
    return htmlBlocks(value)
  } catch (cause) {
    throw new PercolateError(
      'DOCUMENT_DAMAGED',
      `${input.name} is not a readable DOCX file; it is corrupt or incomplete.`,
      { cause },
    )
  }
}
