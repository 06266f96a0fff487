// The height of rows that are not drawn.

interface Props {
  height: number;
}

export function TableSpacer({ height }: Props) {
  if (height <= 0) return null;
  return (
    <tbody className="table-spacer" aria-hidden="true">
      <tr>
        <td colSpan={4} style={{ height }} />
      </tr>
    </tbody>
  );
}
