package intake

import "testing"

func TestHumanWritesSizesAsTheGuideDoes(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0", 1: "1", 1023: "1023", 1024: "1Ki", 1536: "1.5Ki", 1 << 20: "1Mi", 1<<20 - 1: "1Mi",
		299787264: "285.9Mi", 2684354560: "2.5Gi", 10 << 30: "10Gi", 1<<63 - 1: "8Ei",
	} {
		if got := human(bytes); got != want {
			t.Errorf("human(%d) = %s, want %s", bytes, got, want)
		}
	}
}
