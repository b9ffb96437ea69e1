"""Commands for those who keep the series: badges, result tables, figures. Readers never need them."""
