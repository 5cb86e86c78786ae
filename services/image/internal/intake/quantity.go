package intake

import (
	"math"
	"strconv"
)

// human writes bytes for people, with one digit behind the point at most: 285.9Mi,
// 2.5Gi, 10Gi.
func human(bytes int64) string {
	units := []string{"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"}
	value, unit := float64(bytes), 0
	for unit < len(units)-1 && math.Round(value*10)/10 >= 1024 {
		value, unit = value/1024, unit+1
	}
	return strconv.FormatFloat(math.Round(value*10)/10, 'f', -1, 64) + units[unit]
}

// percent writes a part of a whole as 28.2%. What isn't known is 0.0%.
func percent(part, whole int64) string {
	if whole <= 0 {
		return "0.0%"
	}
	return strconv.FormatFloat(min(100*float64(part)/float64(whole), 100), 'f', 1, 64) + "%"
}
