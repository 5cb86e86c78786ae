package main

import (
	"errors"
	"fmt"
	"regexp"

	"google.golang.org/protobuf/reflect/protoreflect"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// limits is the JSON form of buf.validate.field, as far as a structural schema
// can say it. (protobuf writes 64-bit numbers as JSON strings.)
type limits struct {
	Required bool
	Ignore   string
	String   *stringLimits
	Int32    *int32Limits
	Bytes    *bytesLimits
	Enum     *enumLimits
	Repeated *listLimits
	Map      *mapLimits
}

type stringLimits struct {
	Len      *int64 `json:",string"`
	MinLen   *int64 `json:",string"`
	MaxLen   *int64 `json:",string"`
	MaxBytes *int64 `json:",string"`
	Pattern  string
	In       []string
	Email    bool
	Hostname bool
	IPv4     bool `json:"ipv4"`
	IPv6     bool `json:"ipv6"`
	URI      bool
	UUID     bool
}

type int32Limits struct {
	GT, GTE, LT, LTE *int32
}

type bytesLimits struct {
	MaxLen *int64 `json:",string"`
}

type enumLimits struct {
	DefinedOnly bool
}

type listLimits struct {
	MinItems *int64 `json:",string"`
	MaxItems *int64 `json:",string"`
	Unique   bool
	Items    *limits
}

type mapLimits struct {
	MinPairs *int64 `json:",string"`
	MaxPairs *int64 `json:",string"`
	Values   *limits
}

// onto writes the limits of a field into its schema.
func (l limits) onto(s *schema, f protoreflect.FieldDescriptor) error {
	switch {
	case f.IsMap():
		l.Map.onto(s)
		if l.Required {
			raise(&s.MinProperties, 1)
		}
	case f.IsList():
		l.Repeated.onto(s)
		if l.Required {
			raise(&s.MinItems, 1)
		}
	default:
		if err := l.valueOnto(s); err != nil {
			return err
		}
		// A string that must be there and can't be told from "" must not be "".
		if l.Required && f.Kind() == protoreflect.StringKind && !f.HasPresence() && !s.XIntOrString {
			raise(&s.MinLength, 1)
		}
	}
	return nil
}

// valueOnto writes the limits of a single value into its schema.
func (l limits) valueOnto(s *schema) error {
	if l.Repeated != nil || l.Map != nil {
		return errors.New("limits of a list or a map are given to something that is neither")
	}
	if l.String != nil {
		if err := l.String.onto(s); err != nil {
			return err
		}
	}
	l.Int32.onto(s)
	if l.Bytes != nil && l.Bytes.MaxLen != nil {
		encoded := (*l.Bytes.MaxLen + 2) / 3 * 4 // base64
		s.MaxLength = &encoded
	}
	return nil
}

func (l *stringLimits) onto(s *schema) error {
	s.MinLength, s.MaxLength = l.MinLen, l.MaxLen
	if l.Len != nil {
		s.MinLength, s.MaxLength = l.Len, l.Len
	}
	if l.Pattern != "" {
		if _, err := regexp.Compile(l.Pattern); err != nil {
			return fmt.Errorf("pattern: %w", err)
		}
		s.Pattern = l.Pattern
	}
	for _, word := range l.In {
		s.Enum = append(s.Enum, jsonString(word))
	}
	s.Format = l.format()
	if l.MaxBytes != nil {
		// A schema counts characters, so the bytes need a rule.
		lower(&s.MaxLength, *l.MaxBytes)
		s.XValidations = append(s.XValidations, apiextensions.ValidationRule{
			Rule:    fmt.Sprintf("bytes(self).size() <= %d", *l.MaxBytes),
			Message: fmt.Sprintf("must not be longer than %d bytes", *l.MaxBytes),
		})
	}
	return nil
}

func (l *stringLimits) format() string {
	switch {
	case l.Email:
		return "email"
	case l.Hostname:
		return "hostname"
	case l.IPv4:
		return "ipv4"
	case l.IPv6:
		return "ipv6"
	case l.URI:
		return "uri"
	case l.UUID:
		return "uuid"
	}
	return ""
}

// onto narrows the range that every int32 has.
func (l *int32Limits) onto(s *schema) {
	if l == nil {
		return
	}
	low, high := l.bounds()
	if low > *s.Minimum {
		s.Minimum = &low
	}
	if high < *s.Maximum {
		s.Maximum = &high
	}
}

// bounds returns the smallest and the largest legal number.
func (l *int32Limits) bounds() (float64, float64) {
	full := int32Schema()
	low, high := *full.Minimum, *full.Maximum
	if l.GT != nil {
		low = max(low, float64(*l.GT)+1)
	}
	if l.GTE != nil {
		low = max(low, float64(*l.GTE))
	}
	if l.LT != nil {
		high = min(high, float64(*l.LT)-1)
	}
	if l.LTE != nil {
		high = min(high, float64(*l.LTE))
	}
	return low, high
}

func (l *int32Limits) allows(n float64) bool {
	if l == nil {
		return true
	}
	low, high := l.bounds()
	return low <= n && n <= high
}

func (l *listLimits) onto(s *schema) {
	if l != nil {
		s.MinItems, s.MaxItems = l.MinItems, l.MaxItems
	}
}

func (l *listLimits) itemsOnto(s *schema) error {
	if l == nil || l.Items == nil {
		return nil
	}
	return l.Items.valueOnto(s)
}

func (l *mapLimits) onto(s *schema) {
	if l != nil {
		s.MinProperties, s.MaxProperties = l.MinPairs, l.MaxPairs
	}
}

func (l *mapLimits) valuesOnto(s *schema) error {
	if l == nil || l.Values == nil {
		return nil
	}
	return l.Values.valueOnto(s)
}

// zeroIsLegal tells whether a field without presence may have its zero.
func (l limits) zeroIsLegal(f protoreflect.FieldDescriptor) bool {
	if isNumber(f) {
		return l.Int32.allows(0)
	}
	if l.String == nil {
		return true
	}
	var s schema
	if l.String.onto(&s) != nil {
		return true // noted where the limits are written down
	}
	matches := s.Pattern == "" || regexp.MustCompile(s.Pattern).MatchString("")
	return matches && (s.MinLength == nil || *s.MinLength == 0) && s.Format == "" && len(s.Enum) == 0
}

func raise(limit **int64, to int64) {
	if *limit == nil || **limit < to {
		*limit = &to
	}
}

func lower(limit **int64, to int64) {
	if *limit == nil || **limit > to {
		*limit = &to
	}
}
