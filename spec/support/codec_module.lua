--- A module that specs of the codec have required elsewhere.
return {
  answer = 42,
  rebuild = function(...) return { n = select("#", ...), ... } end,
}
